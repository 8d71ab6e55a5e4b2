"""Errors: codes are unique, texts are one line, what is known of the effect is stated."""

from mesh import errors


def test_every_code_names_one_class() -> None:
    def classes(kind: type[errors.MeshError]) -> list[type[errors.MeshError]]:
        return [kind, *(c for sub in kind.__subclasses__() for c in classes(sub))]

    own = [k for k in classes(errors.MeshError) if k.__module__ == "mesh.errors"]
    found = errors.by_code()
    ending = {errors.StorageError, errors.TooSlow, errors.ConfigError, errors.AlreadyRunning}
    assert all(found[k.code] is k for k in own if "code" in vars(k) and k not in ending)
    assert not ending & set(found.values())  # a peer's word does not end us


def test_refusals_were_not_executed() -> None:
    assert errors.Refused().executed == "no"
    assert errors.NoService().executed == "no"
    assert errors.OutcomeUnknown().executed == "unknown"


def test_open_breaker_says_its_name_and_when_to_come_back() -> None:
    error = errors.BreakerOpen("venue", 1.5)
    assert str(error) == "breaker venue is open, retry in 1.5 s"
    assert error.retry_after_s == 1.5
