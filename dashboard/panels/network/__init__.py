"""The network level: both datapaths as a river."""
