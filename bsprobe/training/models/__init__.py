"""The networks: DeepLabV2, those of other packages, and user-supplied ones, in any norm."""
