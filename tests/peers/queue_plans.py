"""What a queue server makes of our plans: it describes them, then checks a request that came as JSON."""

import json
import sys

from bluesky_queueserver.manager.profile_ops import _process_plan, validate_plan

from bluesky_edgestem.plans.adaptive import adaptive_map
from bluesky_edgestem.plans.calibration import calibrate_rotation
from bluesky_edgestem.plans.survey import raster_map, sobol_map

MICROSCOPE = {"microscope": {"is_readable": True, "is_movable": False, "is_flyable": True}}

verdicts = {}
plans = {plan.__name__: plan for plan in (adaptive_map, raster_map, sobol_map, calibrate_rotation)}
for name, request in json.loads(sys.argv[1]).items():
    described = _process_plan(plans[name.partition(" ")[0]], existing_devices=MICROSCOPE, existing_plans={})
    item = {"name": described["name"], "item_type": "plan", "user_group": "primary", **request}
    accepted, why = validate_plan(item, allowed_plans={described["name"]: described}, allowed_devices=MICROSCOPE)
    verdicts[name] = "" if accepted else why
print(json.dumps(verdicts))
