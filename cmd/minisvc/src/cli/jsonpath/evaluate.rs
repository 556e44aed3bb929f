//! Walking a value along a path.

use super::{Comparison, JsonPathError, Operand, Part, RESULTS_MAX, Step};
use serde_json::Value;

/// Writes what the parts make of a value; `here` is that of the innermost `range`.
pub(super) fn render(
    parts: &[Part],
    root: &Value,
    here: &Value,
    out: &mut String,
) -> Result<(), JsonPathError> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path { from_root, steps } => {
                let found = walk(steps, if *from_root { root } else { here })?;
                let texts: Vec<String> = found.into_iter().map(shown).collect();
                out.push_str(&texts.join(" "));
            }
            Part::Range { from_root, steps, body } => {
                for item in walk(steps, if *from_root { root } else { here })? {
                    render(body, root, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn walk<'a>(steps: &[Step], from: &'a Value) -> Result<Vec<&'a Value>, JsonPathError> {
    let mut here = vec![from];
    for step in steps {
        let mut next = Vec::new();
        for value in here {
            take(step, value, &mut next)?;
            if next.len() > RESULTS_MAX {
                return Err(JsonPathError::TooMany);
            }
        }
        here = next;
    }
    Ok(here)
}

fn take<'a>(step: &Step, value: &'a Value, into: &mut Vec<&'a Value>) -> Result<(), JsonPathError> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let position = |index: i64| {
        let index = if index < 0 { index + items.len() as i64 } else { index };
        usize::try_from(index).unwrap_or(0).min(items.len())
    };
    match step {
        Step::Field(name) => into.extend(value.get(name)),
        Step::Index(index) if *index < -(items.len() as i64) => {}
        Step::Index(index) => into.extend(items.get(position(*index))),
        Step::Slice(from, to) => {
            let (from, to) = (position(from.unwrap_or(0)), to.map_or(items.len(), position));
            into.extend(items.get(from..to.max(from)).unwrap_or_default());
        }
        Step::All => match value {
            Value::Object(map) => into.extend(map.values()),
            _ => into.extend(items),
        },
        Step::Anywhere(name) => anywhere(name, value, into),
        Step::Filter(left, condition) => {
            for item in items {
                if holds(left, condition.as_ref(), item)? {
                    into.push(item);
                }
            }
        }
    }
    Ok(())
}

fn anywhere<'a>(name: &str, value: &'a Value, into: &mut Vec<&'a Value>) {
    if name == "*" {
        into.push(value);
    } else {
        into.extend(value.get(name));
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| anywhere(name, value, into)),
        Value::Array(items) => items.iter().for_each(|value| anywhere(name, value, into)),
        _ => {}
    }
}

fn holds(
    left: &[Step],
    condition: Option<&(Comparison, Operand)>,
    item: &Value,
) -> Result<bool, JsonPathError> {
    let left = walk(left, item)?.into_iter().next();
    let Some((comparison, operand)) = condition else { return Ok(left.is_some()) };
    let right = match operand {
        Operand::Literal(value) => Some(value),
        Operand::Path(steps) => walk(steps, item)?.into_iter().next(),
    };
    let (Some(left), Some(right)) = (left, right) else { return Ok(false) };
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right)),
    };
    Ok(match comparison {
        Comparison::Equal => left == right || order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::NotEqual => left != right && !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    })
}
