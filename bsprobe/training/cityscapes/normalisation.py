"""The normalisations of input images. It does not import torch: the parent process uses it too."""

from enum import StrEnum


class InputNormalisation(StrEnum):
    """The normalisation of the images that a network's weights were trained with."""

    IMAGENET_RGB = "imagenet-rgb"
    """torchvision's: red, green, blue from 0 to 1, less ImageNet's mean, over its deviation."""
    CAFFE_BGR = "caffe-bgr"
    """Of weights converted from Caffe: blue, green, red from 0 to 255, less the mean colour."""
