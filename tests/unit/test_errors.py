"""Every error tells a person what to do."""

import inspect
import pickle

import pytest

from pipeline import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.BitsieveError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_without_a_fix_of_its_own_has_that_of_its_class(kind: type[errors.BitsieveError]) -> None:
    plain, own = pickle.loads(pickle.dumps([kind("it broke"), kind("it broke", "mend it")]))
    assert (type(plain), plain.message) == (kind, "it broke")
    assert plain.fix == kind.usual_fix
    assert str(own) == "it broke\n  fix: mend it"
