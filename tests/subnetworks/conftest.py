from tests.tiny_models import folders, ids

__all__ = ["folders", "ids"]
