"""uadray: screens archives of whole-slide images for tissue that does not look normal."""

__version__ = "0.1.0"
