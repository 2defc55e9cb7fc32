//! How many Pods there are to be, and how many must stay: HorizontalPodAutoscaler, PodDisruptionBudget, PriorityClass.
//!
//! Lines of the table in `resources`.

use serde_json::{Value, json};

use super::{Column, GENERIC, Resource, default, items, number, text};

/// `horizontalpodautoscalers`
pub const AUTOSCALERS: Resource = Resource {
    group: "autoscaling",
    version: "v2",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    kind: "HorizontalPodAutoscaler",
    short_names: &["hpa"],
    has_status: true,
    in_all: true,
    defaults: |scaler| {
        default(scaler, "status", json!({}));
        default(&mut scaler["spec"], "minReplicas", 1);
    },
    columns: &[
        Column::text("Reference"),
        Column::text("Targets"),
        Column::text("MinPods"),
        Column::text("MaxPods"),
        Column::number("Replicas"),
    ],
    cells: autoscaler_cells,
    ..GENERIC
};

/// `poddisruptionbudgets`
pub const DISRUPTION_BUDGETS: Resource = Resource {
    group: "policy",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    kind: "PodDisruptionBudget",
    short_names: &["pdb"],
    has_status: true,
    generation: true,
    defaults: |budget| default(budget, "status", json!({})),
    columns: &[
        Column::text("Min Available"),
        Column::text("Max Unavailable"),
        Column::number("Allowed Disruptions"),
    ],
    cells: |budget| {
        let bound = |field: &str| match &budget["spec"][field] {
            Value::Null => "N/A".into(),
            given => super::plain(given).into(),
        };
        let allowed = number(budget, "/status/disruptionsAllowed");
        vec![bound("minAvailable"), bound("maxUnavailable"), allowed.into()]
    },
    ..GENERIC
};

/// `priorityclasses`
pub const PRIORITY_CLASSES: Resource = Resource {
    group: "scheduling.k8s.io",
    plural: "priorityclasses",
    singular: "priorityclass",
    kind: "PriorityClass",
    short_names: &["pc"],
    namespaced: false,
    columns: &[Column::number("Value")],
    cells: |class| vec![class["value"].clone()],
    ..GENERIC
};

fn autoscaler_cells(scaler: &Value) -> Vec<Value> {
    let reference = format!(
        "{}/{}",
        text(scaler, "/spec/scaleTargetRef/kind"),
        text(scaler, "/spec/scaleTargetRef/name")
    );
    let targets: Vec<_> = items(scaler, "/spec/metrics")
        .iter()
        .map(|metric| {
            let wanted = number(metric, "/resource/target/averageUtilization");
            format!("{}: <unknown>/{wanted}%", text(metric, "/resource/name"))
        })
        .collect();
    vec![
        reference.into(),
        super::or_none(&targets.join(", ")),
        super::plain(&scaler["spec"]["minReplicas"]).into(),
        super::plain(&scaler["spec"]["maxReplicas"]).into(),
        number(scaler, "/status/currentReplicas").into(),
    ]
}
