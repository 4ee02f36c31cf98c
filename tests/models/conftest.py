from tests.tiny_models import folders, ids, load

__all__ = ["folders", "ids", "load"]
