"""The start-up check of clashing packages."""

import pytest

from jobs.packages import check_packages
from pipeline.errors import UsageError

CPU = {"faiss-cpu", "onnxruntime"}


def test_check_packages_one_build_of_each_passes():
    check_packages(CPU.__contains__)
    check_packages({"faiss-gpu-cuvs", "onnxruntime-gpu"}.__contains__)


@pytest.mark.parametrize("second", ["faiss-gpu", "faiss-gpu-cuvs", "onnxruntime-gpu"])
def test_check_packages_two_builds_names_both_and_the_command(second):
    with pytest.raises(UsageError, match=second) as caught:
        check_packages((CPU | {second}).__contains__)
    assert "pip uninstall -y" in caught.value.fix


def test_check_packages_missing_build_names_the_extras():
    with pytest.raises(UsageError, match="faiss-cpu") as caught:
        check_packages({"onnxruntime"}.__contains__)
    assert "bitsieve[cpu]" in caught.value.fix


def test_check_packages_this_environment_passes():
    check_packages()
