"""Attribution: how much each channel and each edge contributes, and the datapaths that follow from it."""
