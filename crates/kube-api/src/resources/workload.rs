//! Deployments, ReplicaSets, DaemonSets, StatefulSets, Jobs and CronJobs: stored, with defaults and columns. Nothing
//! runs them; `settle` may write their status.
//!
//! Lines of the table in `resources`.

use serde_json::{Value, json};

use super::pod_template::{self, cells};
use super::{Column, GENERIC, Resource, default, items, number, or_none, pod_template::pairs, text};
use crate::status::Cause;

/// `deployments`
pub const DEPLOYMENTS: Resource = Resource {
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    has_scale: true,
    defaults: deployment_defaults,
    columns: &[Column::text("Ready"), Column::number("Up-to-date"), Column::number("Available")],
    wide_columns: WIDE,
    cells: |it| [vec![ready(it), count(it, "updated"), count(it, "available")], cells(it)].concat(),
    ..WORKLOAD
};

/// `replicasets`
pub const REPLICA_SETS: Resource = Resource {
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    has_scale: true,
    defaults: replicated_defaults,
    columns: &[Column::number("Desired"), Column::number("Current"), Column::number("Ready")],
    wide_columns: WIDE,
    cells: |it| {
        let own = vec![
            number(it, "/spec/replicas").into(),
            number(it, "/status/replicas").into(),
            count(it, "ready"),
        ];
        [own, cells(it)].concat()
    },
    ..WORKLOAD
};

/// `daemonsets`
pub const DAEMON_SETS: Resource = Resource {
    plural: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    short_names: &["ds"],
    defaults: |it| {
        template_defaults(it);
        default(&mut it["spec"], "updateStrategy", json!({"type": "RollingUpdate"}));
        default(&mut it["spec"], "revisionHistoryLimit", 10);
        for field in ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"]
        {
            default(&mut it["status"], field, 0);
        }
    },
    columns: &[
        Column::number("Desired"),
        Column::number("Current"),
        Column::number("Ready"),
        Column::number("Up-to-date"),
        Column::number("Available"),
        Column::text("Node Selector"),
    ],
    wide_columns: WIDE,
    cells: |it| {
        let of = |field: &str| Value::from(number(&it["status"], field));
        let nodes = pairs(&it["spec"]["template"]["spec"]["nodeSelector"]).join(",");
        let own = vec![
            of("/desiredNumberScheduled"),
            of("/currentNumberScheduled"),
            of("/numberReady"),
            of("/updatedNumberScheduled"),
            of("/numberAvailable"),
            or_none(&nodes),
        ];
        [own, cells(it)].concat()
    },
    ..WORKLOAD
};

/// `statefulsets`
pub const STATEFUL_SETS: Resource = Resource {
    plural: "statefulsets",
    singular: "statefulset",
    kind: "StatefulSet",
    short_names: &["sts"],
    has_scale: true,
    defaults: |it| {
        replicated_defaults(it);
        default(&mut it["spec"], "updateStrategy", json!({"type": "RollingUpdate"}));
    },
    columns: &[Column::text("Ready")],
    wide_columns: &[Column::wide("Containers"), Column::wide("Images")],
    cells: |it| {
        let mut own = vec![ready(it)];
        own.extend(cells(it).into_iter().take(2));
        own
    },
    ..WORKLOAD
};

/// `jobs`
pub const JOBS: Resource = Resource {
    group: "batch",
    plural: "jobs",
    singular: "job",
    kind: "Job",
    defaults: |it| {
        template_defaults(it);
        for (field, value) in [("completions", 1), ("parallelism", 1), ("backoffLimit", 6)] {
            default(&mut it["spec"], field, value);
        }
    },
    validate: |_| Vec::new(),
    columns: &[Column::text("Status"), Column::text("Completions"), Column::text("Duration")],
    wide_columns: WIDE,
    cells: job_cells,
    ..WORKLOAD
};

/// `cronjobs`
pub const CRON_JOBS: Resource = Resource {
    group: "batch",
    plural: "cronjobs",
    singular: "cronjob",
    kind: "CronJob",
    short_names: &["cj"],
    defaults: |it| default(it, "status", json!({})),
    validate: |_| Vec::new(),
    columns: &[Column::text("Schedule")],
    cells: |it| vec![text(it, "/spec/schedule").into()],
    ..WORKLOAD
};

const WORKLOAD: Resource = Resource {
    group: "apps",
    has_status: true,
    in_all: true,
    generation: true,
    validate: faults_of,
    ..GENERIC
};

const WIDE: &[Column] = &[Column::wide("Containers"), Column::wide("Images"), Column::wide("Selector")];

fn template_defaults(workload: &mut Value) {
    default(workload, "spec", json!({}));
    default(workload, "status", json!({}));
    if workload["spec"]["template"].is_object() {
        pod_template::defaults_of(&mut workload["spec"]["template"]["spec"]);
    } else if let Some(spec) = workload["spec"].as_object_mut() {
        spec.remove("template"); // Indexing may have made it.
    }
}

fn replicated_defaults(workload: &mut Value) {
    template_defaults(workload);
    default(&mut workload["spec"], "replicas", 1);
}

fn deployment_defaults(deployment: &mut Value) {
    replicated_defaults(deployment);
    let spec = &mut deployment["spec"];
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({"type": "RollingUpdate"}));
    if text(spec, "/strategy/type") == "RollingUpdate" {
        default(&mut spec["strategy"], "rollingUpdate", json!({}));
        default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
}

// The faults that a person makes: no selector, one that does not fit the template, no container.
fn faults_of(workload: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let required =
        |field| Cause { reason: "FieldValueRequired", message: "Required value".to_owned(), field };
    if !workload.pointer("/spec/selector").is_some_and(Value::is_object) {
        causes.push(required("spec.selector"));
    }
    if items(workload, "/spec/template/spec/containers").is_empty() {
        causes.push(required("spec.template.spec.containers"));
    }
    let labels = workload.pointer("/spec/template/metadata/labels");
    let wanted = workload.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let misses = |(key, value): (&String, &Value)| labels.and_then(|labels| labels.get(key)) != Some(value);
    if wanted.into_iter().flatten().any(misses) {
        let given = labels.cloned().unwrap_or_else(|| json!({}));
        let message = format!("Invalid value: {given}: `selector` does not match template `labels`");
        causes.push(Cause { reason: "FieldValueInvalid", message, field: "spec.template.metadata.labels" });
    }
    causes
}

fn ready(workload: &Value) -> Value {
    format!("{}/{}", number(workload, "/status/readyReplicas"), number(workload, "/spec/replicas")).into()
}

fn count(workload: &Value, which: &str) -> Value {
    number(workload, &format!("/status/{which}Replicas")).into()
}

fn job_cells(job: &Value) -> Vec<Value> {
    let holds = |kind: &str| {
        let conditions = items(job, "/status/conditions");
        conditions.iter().any(|one| text(one, "/type") == kind && text(one, "/status") == "True")
    };
    let status = match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if holds("Suspended") => "Suspended",
        () => "Running",
    };
    let done = format!("{}/{}", number(job, "/status/succeeded"), number(job, "/spec/completions"));
    [vec![status.into(), done.into(), "".into()], cells(job)].concat()
}
