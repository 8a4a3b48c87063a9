"""Activation patching: causal tests of datapaths, beside their controls."""
