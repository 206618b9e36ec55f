"""What is said of a machine: its packages, and versions that differ from another's."""

from uadray.cluster import machine_checks


def test_versions_that_differ_are_named() -> None:
    here = machine_checks.versions()
    assert machine_checks.same_versions(here).ok
    finding = machine_checks.same_versions(here | {"Ray": "2.50.0"})
    assert not finding.ok
    assert f"Ray {here['Ray']} here and 2.50.0 on the driver's machine" in finding.message


def test_a_package_that_cannot_be_imported_is_named() -> None:
    assert machine_checks.package("numpy", "arrays").ok
    finding = machine_checks.package("no_such_package", "nothing")
    assert (finding.what, finding.ok) == ("no_such_package", False)
    assert finding.message.startswith("needed for nothing: ")
