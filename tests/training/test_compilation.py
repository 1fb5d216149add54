"""The compile cache of a run folder that another machine goes on with."""

from instructrec_jax.training.compilation import machine_name

PROCESSORS = """processor\t: {number}
model\t\t: 167
cpu MHz\t\t: {speed}
flags\t\t: fpu sse2 {features}

"""


def test_each_kind_of_machine_has_compiled_functions_of_its_own(tmp_path):
    def name(*, features: str, speed: float) -> str:
        file = tmp_path / "cpuinfo"
        cores = (PROCESSORS.format(number=n, speed=speed, features=features) for n in range(2))
        file.write_text("".join(cores))
        return machine_name(file)

    new = name(features="avx2 avx512f", speed=2600.0)
    assert new == name(features="avx2 avx512f", speed=1200.5)
    assert new != name(features="avx2", speed=2600.0)
    assert machine_name(tmp_path / "none").startswith("cpu-")
