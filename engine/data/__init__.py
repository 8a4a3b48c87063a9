"""Images from files and folders into the store; the only place that knows a layout of pictures."""
