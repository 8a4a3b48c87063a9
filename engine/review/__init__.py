"""The review: what people say of a finished run, its report, and the evidence that can be handed on and checked."""
