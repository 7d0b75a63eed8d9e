"""The colours that weights expect; without torch, for the parent names them as well."""

from enum import StrEnum


class InputNormalisation(StrEnum):
    """What a network's weights expect of its images."""

    IMAGENET_RGB = "imagenet-rgb"
    """Red, green, blue from 0 to 1, ImageNet's mean and standard deviation: torchvision."""
    CAFFE_BGR = "caffe-bgr"
    """Blue, green, red from 0 to 255, the mean colour subtracted: weights converted from Caffe."""
