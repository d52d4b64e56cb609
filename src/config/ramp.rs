//! `ramp`: the canary's share in stages.

use crate::config::bounds;
use crate::config::guard::guard;
use crate::config::value;
use crate::json::{Cursor, Read, each};
use crate::plan::guard::Guard;
use crate::plan::ramp::{Ramp, Stage};
use crate::units::Bps;

/// Reads a deployment's `ramp`. Fields that a stage's guard lacks come from the deployment's guard.
pub fn ramp(at: &Cursor<'_>, deployment_guard: &Guard) -> Read<Ramp> {
    let object = at.object(&["stages", "start", "paused"])?;
    let stages = object.need("stages").and_then(|at| stages(&at, deployment_guard));
    let start = object.get("start").map(|at| value::time(&at)).transpose();
    let paused = object.get("paused").map_or(Ok(false), |at| at.boolean());
    Ok(Ramp { stages: stages?, start: start?, paused: paused? })
}

/// Reads the stages, and checks that no weight is below the one before.
fn stages(at: &Cursor<'_>, deployment_guard: &Guard) -> Read<Vec<Stage>> {
    let items = at.items(&bounds::STAGES)?;
    let stages = each(&items, |at| stage(at, deployment_guard));
    // The share only grows. A lower one is a mistake, or means a rollback by hand, which is no stage.
    let mut before = Bps::ZERO;
    for item in &items.cursors {
        let Some(field) = item.peek("weight") else { continue };
        let Some(weight) = value::as_percent(&field) else { continue };
        if weight < before {
            field.wrong(&format!("must not be below the stage before ({before})"));
        }
        before = weight;
    }
    stages
}

/// Reads one stage.
fn stage(at: &Cursor<'_>, deployment_guard: &Guard) -> Read<Stage> {
    let object = at.object(&["weight", "for", "min_requests", "guard"])?;
    let weight = object.need("weight").and_then(|at| value::percent(&at));
    let duration = object.need("for").and_then(|at| value::duration(&at, &bounds::STAGE_FOR));
    let min_requests = object.get("min_requests").map_or(Ok(0), |at| at.integer(&bounds::STAGE_MIN_REQUESTS));
    let guard =
        object.get("guard").map_or_else(|| Ok(deployment_guard.clone()), |at| guard(&at, deployment_guard));
    Ok(Stage { weight: weight?, duration: duration?, min_requests: min_requests?, guard: guard? })
}
