"""The networks: DeepLabV2, exact, and whatever torchvision has, in any norm."""
