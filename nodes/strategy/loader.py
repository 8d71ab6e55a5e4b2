"""From `module:Class` or `FILE.py:Class` to a Strategy class.

Never here: running it.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from mesh.errors import ConfigError
from nodes.strategy.sdk import Strategy


def load_strategy(where: str) -> type[Strategy]:
    """Return the class named by *where*. Raises ConfigError with one line."""
    place, _, name = where.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"strategy {where!r}: write it as module:Class or FILE.py:Class")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    except ConfigError:
        raise
    except Exception as error:  # a strategy's module is foreign code: it may raise anything
        raise ConfigError(
            f"strategy {where!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ConfigError(f"strategy {where!r}: there is no Strategy of that name in {place}")
    return found


def _from_name(name: str) -> ModuleType:
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"strategy file {path} does not exist")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
