//! Who is asking (bearer tokens) and whether they may (rules), with the real server's 401 and 403 texts.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode, header};

use crate::route::{Route, Target};
use crate::status::{Details, Status};

/// A bearer token, whose it is and what it allows.
#[derive(Clone, Debug)]
pub struct Token {
    /// The secret itself.
    pub value: String,
    /// The user name in 403 texts.
    pub user: String,
    /// What the user may do; nothing else is allowed.
    pub rules: Vec<Rule>,
    /// From when on it answers 401; `None`: never.
    pub expires: Option<SystemTime>,
}

/// Allows some verbs on some resources in some namespaces; `*` stands for all. Only a rule for the namespace `*`
/// allows requests over all namespaces and on cluster-wide kinds.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Plural names, for example `endpointslices`.
    pub resources: Vec<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
}

/// What happens to requests without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// They may do everything: for tests, and only on loopback. If there are no tokens at all, a token that is sent
    /// is not looked at.
    #[default]
    Allowed,
    /// They are `system:anonymous`, who may read `/version` and the health paths and gets 403 for the rest.
    Forbidden,
    /// 401, as with `--anonymous-auth=false`.
    Unauthorized,
}

/// The one who asks, once known.
#[derive(Clone, Debug)]
pub struct User {
    pub(crate) name: String,
    anonymous: bool,
    // None: everything is allowed.
    rules: Option<Vec<Rule>>,
}

const ANYONE_MAY_READ: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

impl Token {
    /// A token that allows everything.
    pub fn admin(value: impl Into<String>) -> Self {
        let rule = Rule::new("*", "*", &["*"]);
        Self { value: value.into(), user: "admin".to_owned(), rules: vec![rule], expires: None }
    }

    /// A token of a service account that allows nothing yet.
    pub fn service_account(value: impl Into<String>, namespace: &str, name: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        Self { value: value.into(), user, rules: Vec::new(), expires: None }
    }

    /// Adds a rule.
    pub fn allow(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }
}

impl Rule {
    /// A rule for one namespace and one resource (either may be `*`).
    pub fn new(namespace: &str, resource: &str, verbs: &[&str]) -> Self {
        Self {
            namespaces: vec![namespace.to_owned()],
            resources: vec![resource.to_owned()],
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        }
    }

    fn allows_everything(&self) -> bool {
        [&self.namespaces, &self.resources, &self.verbs].iter().all(|list| list.iter().any(|one| one == "*"))
    }

    fn allows(&self, target: &Target, verb: &str) -> bool {
        let holds = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        holds(&self.verbs, verb)
            && holds(&self.resources, &target.resource)
            // No namespace is allowed by "*" only, for nothing else equals the empty text.
            && holds(&self.namespaces, target.namespace.as_deref().unwrap_or_default())
    }
}

/// Finds the user behind a request.
///
/// # Errors
/// 401 for an unknown or expired token, and without one where anonymous requests are off.
pub fn authenticate(headers: &HeaderMap, tokens: &[Token], anonymous: Anonymous) -> Result<User, Status> {
    let open = anonymous == Anonymous::Allowed && tokens.is_empty();
    let Some(value) = headers.get(header::AUTHORIZATION).filter(|_| !open) else {
        let name = "system:anonymous".to_owned();
        return match anonymous {
            Anonymous::Allowed => Ok(User { name, anonymous: true, rules: None }),
            Anonymous::Forbidden => Ok(User { name, anonymous: true, rules: Some(Vec::new()) }),
            Anonymous::Unauthorized => Err(Status::unauthorized()),
        };
    };
    let given = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let now = SystemTime::now();
    let valid = |token: &&Token| {
        Some(token.value.as_str()) == given && token.expires.is_none_or(|expires| now < expires)
    };
    let token = tokens.iter().find(valid).ok_or_else(Status::unauthorized)?;
    Ok(User { name: token.user.clone(), anonymous: false, rules: Some(token.rules.clone()) })
}

/// Whether the user may do this.
///
/// # Errors
/// 403 in the real server's words.
pub fn authorize(user: &User, route: &Route, verb: &str) -> Result<(), Status> {
    let Some(rules) = &user.rules else { return Ok(()) };
    match route {
        // Discovery is open to every authenticated user, as by the role system:discovery.
        Route::Path(_) if verb == "get" && !user.anonymous => Ok(()),
        Route::Path(path) if verb == "get" && ANYONE_MAY_READ.contains(&path.as_str()) => Ok(()),
        Route::Path(_) if rules.iter().any(Rule::allows_everything) => Ok(()),
        Route::Path(path) => Err(forbidden_path(user, path, verb)),
        // What one may do oneself, each may ask, as by the role system:basic-user.
        Route::Resource(target) if target.group == "authorization.k8s.io" && !user.anonymous => Ok(()),
        Route::Resource(target) if rules.iter().any(|rule| rule.allows(target, verb)) => Ok(()),
        Route::Resource(target) => Err(forbidden(user, target, verb)),
    }
}

/// 403 for a resource.
pub fn forbidden(user: &User, target: &Target, verb: &str) -> Status {
    let resource = match &target.subresource {
        Some(sub) => format!("{}/{sub}", target.resource),
        None => target.resource.clone(),
    };
    let qualified = if target.group.is_empty() {
        target.resource.clone()
    } else {
        format!("{}.{}", target.resource, target.group)
    };
    let named = target.name.as_ref().map_or_else(String::new, |name| format!(" \"{name}\""));
    let scope = match &target.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let message = format!(
        "{qualified}{named} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {scope}",
        user.name, target.group
    );
    let details = Details {
        name: target.name.clone().unwrap_or_default(),
        group: target.group.clone(),
        kind: target.resource.clone(),
        ..Details::default()
    };
    Status::failure(StatusCode::FORBIDDEN, "Forbidden", message).with(details)
}

fn forbidden_path(user: &User, path: &str, verb: &str) -> Status {
    let message = format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name);
    Status::failure(StatusCode::FORBIDDEN, "Forbidden", message).with(Details::default())
}
