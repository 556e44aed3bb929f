//! How many Pods more, and how many serving Pods fewer, an update may have for a while.

use k8s_openapi::{api::apps::v1::DeploymentSpec, apimachinery::pkg::util::intstr::IntOrString};

/// The limits of an update as numbers of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Every old Pod ends before a new one begins.
    pub(super) recreate: bool,
    /// Pods beyond `spec.replicas`.
    pub(super) surge: i32,
    /// Pods of `spec.replicas` that need not serve.
    pub(super) unavailable: i32,
}

impl Limits {
    /// A share of surge is rounded up, one of unavailable Pods down; both can not be zero
    /// (kubernetes `ResolveFenceposts`).
    pub(super) fn of(spec: &DeploymentSpec, replicas: i32) -> Self {
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { recreate: true, surge: 0, unavailable: 0 };
        }
        let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let default = IntOrString::String("25%".to_owned());
        let given = |value: Option<&IntOrString>| value.unwrap_or(&default).clone();
        let surge = amount(&given(update.and_then(|u| u.max_surge.as_ref())), replicas, true);
        let mut unavailable =
            amount(&given(update.and_then(|u| u.max_unavailable.as_ref())), replicas, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self { recreate: false, surge, unavailable: unavailable.min(replicas) }
    }
}

fn amount(value: &IntOrString, replicas: i32, up: bool) -> i32 {
    let share = match value {
        IntOrString::Int(number) => return (*number).max(0),
        IntOrString::String(text) => text.strip_suffix('%').and_then(|n| n.parse::<i64>().ok()).unwrap_or(0),
    };
    let hundredths = i64::from(replicas) * share;
    let rounded = if up { (hundredths + 99) / 100 } else { hundredths / 100 };
    i32::try_from(rounded).unwrap_or(i32::MAX / 2).max(0)
}
