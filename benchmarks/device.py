"""`python -m benchmarks.device`: blind fits on a processor (one thread) and on a GPU, stage by stage, and what both find."""

from __future__ import annotations

import pyro_unmix as pu

SCENES = ("samson", "jasper_ridge")


def main() -> None:
    for name in SCENES:
        scene = pu.load_dataset(name)
        k = scene.reference.sizes["endmember"]
        fits, errors = {}, {}
        for device in ("cpu", "cuda"):
            fits[device] = pu.fit(pu.UnmixingModel(k), scene, config=pu.FitConfig(device=device), progress=False)
            found = pu.evaluate(fits[device].posterior(scene).summary(), scene.reference)
            errors[device] = f"RMSE {found.rmse:.4f}, angle {found.sad:.4f}"
        print(f"{name}: cpu {errors['cpu']}; cuda {errors['cuda']}")
        for stage, seconds in fits["cpu"].seconds.items():
            print(f"    {stage}: ratio {seconds / fits['cuda'].seconds[stage]:.1f} ({seconds:.1f} s on the processor, "
                  f"{fits['cuda'].seconds[stage]:.1f} s on the GPU)")


if __name__ == "__main__":
    main()
