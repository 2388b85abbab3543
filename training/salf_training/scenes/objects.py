"""Every drawn object: how it is drawn, where it may be and how much room it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from numpy.random import Generator

from salf_training.scenes import objects_built, objects_nature, objects_road, objects_sky, objects_water
from salf_training.scenes.pen import Pen

Place = Literal["ground", "sky", "water"]
"""Where an object belongs; a "water" object takes to the sea if there is one and is ashore otherwise."""


@dataclass(frozen=True)
class ObjectKind:
    """Width and height as parts of the object's size (the longer is near 1) and the largest tilt in degrees."""

    draw: Callable[[Pen, Generator], None]
    place: Place
    width: float
    height: float
    tilt_deg: float = 3.0


OBJECT_KINDS: Final[Mapping[str, ObjectKind]] = MappingProxyType(
    {
        "aeroplane": ObjectKind(objects_sky.aeroplane, "sky", 1.08, 0.55, 14.0),
        "anchor": ObjectKind(objects_water.anchor, "ground", 0.9, 1.0, 14.0),
        "balloon": ObjectKind(objects_sky.balloon, "sky", 0.73, 1.0, 6.0),
        "bench": ObjectKind(objects_built.bench, "ground", 1.0, 0.61),
        "bicycle": ObjectKind(objects_road.bicycle, "ground", 1.0, 0.63),
        "bus": ObjectKind(objects_road.bus, "ground", 1.0, 0.57),
        "campfire": ObjectKind(objects_nature.campfire, "ground", 1.0, 0.86),
        "car": ObjectKind(objects_road.car, "ground", 1.0, 0.5),
        "cow": ObjectKind(objects_nature.cow, "ground", 1.0, 0.72),
        "duck": ObjectKind(objects_water.duck, "water", 1.06, 0.82),
        "ferris wheel": ObjectKind(objects_built.ferris_wheel, "ground", 0.9, 1.0, 2.0),
        "helicopter": ObjectKind(objects_sky.helicopter, "sky", 1.12, 0.6, 10.0),
        "house": ObjectKind(objects_built.house, "ground", 1.0, 0.95, 2.0),
        "kite": ObjectKind(objects_sky.kite, "sky", 0.62, 1.0, 28.0),
        "lighthouse": ObjectKind(objects_water.lighthouse, "ground", 0.6, 1.0, 2.0),
        "palm": ObjectKind(objects_nature.palm, "ground", 0.9, 1.0, 6.0),
        "parasol": ObjectKind(objects_built.parasol, "ground", 1.0, 0.97, 14.0),
        "sailboat": ObjectKind(objects_water.sailboat, "water", 0.95, 1.0, 6.0),
        "sandcastle": ObjectKind(objects_built.sandcastle, "ground", 1.0, 0.8, 2.0),
        "snowman": ObjectKind(objects_nature.snowman, "ground", 0.66, 1.0, 4.0),
        "tent": ObjectKind(objects_built.tent, "ground", 1.0, 0.66),
        "tractor": ObjectKind(objects_road.tractor, "ground", 0.97, 0.79),
        "traffic light": ObjectKind(objects_road.traffic_light, "ground", 0.5, 1.0),
        "train": ObjectKind(objects_road.train, "ground", 1.02, 0.67),
        "tree": ObjectKind(objects_nature.tree, "ground", 0.78, 1.0, 4.0),
        "windmill": ObjectKind(objects_built.windmill, "ground", 0.84, 1.06, 2.0),
    }
)
"""Object name -> kind."""
