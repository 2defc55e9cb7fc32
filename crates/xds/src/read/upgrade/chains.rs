//! The TCP proxy's routes of the v1 API, which choose a cluster by addresses and ports, to filter chains.
//!
//! Of the old routes the first that matches won; of filter chains the most specific wins, condition by condition, without a way
//! back. So a chain stands for each case that the conditions tell apart, with the first route that matches there, and cases
//! with the same answer are one chain again: what runs is exactly what the routes said. Reading order: `split`, `cases`.

use super::super::path::Path;
use super::super::tree::{Entry, Kind, Node, Origin, Span};
use super::conditions::{Prefix, Route};
use super::{Pass, add, conditions, find, find_mut, from, items, put, renamed, take};
use std::collections::BTreeSet;

/// Most ports of the listener that are told apart: each takes a chain of its own.
const MAX_PORTS: usize = 64;
/// Most chains of one listener that are made.
const MAX_CHAINS: usize = 256;
/// Most cases that are looked at.
const MAX_CASES: usize = 2_000_000;

const HELP: &str = "write a filter chain with `filter_chain_match` for each route";

/// Splits the chain of a listener whose TCP proxy has routes.
pub(super) fn split(pass: &mut Pass<'_, '_>, listener: &mut Node, path: &Path<'_>) {
    let Some(entry) = find_mut(listener, "filter_chains") else { return };
    let chains_path = path.key(entry.written.as_deref().unwrap_or(&entry.name));
    let chains_path = chains_path.moved(entry.value.written.as_deref());
    let Kind::List(chains) = &mut entry.value.kind else { return };
    let alone = chains.len() == 1;
    let mut made = None;
    for (at, chain) in chains.iter_mut().enumerate() {
        let Some((filter, field, span)) = routes_of(chain) else { continue };
        let here = chains_path.index(at);
        let moved = chain.written.clone();
        let here = here.moved(moved.as_deref());
        if !alone || !mergeable(chain) {
            let text = format!("`{field}` chooses a cluster by addresses, and so does `filter_chain_match`");
            pass.cannot(text, HELP, span, &here);
            let first = first_cluster(chain, filter, field);
            quiet(chain, filter, field, first);
            continue;
        }
        let first = first_cluster(chain, filter, field);
        made = one(pass, chain, (filter, field, span), &here);
        if made.is_none() {
            quiet(chain, filter, field, first);
        }
    }
    if let Some(made) = made {
        *chains = made;
        entry.value.origin = Origin::Made;
    }
}

/// The filter with routes, and their field.
fn routes_of(chain: &Node) -> Option<(usize, &'static str, Span)> {
    let Kind::List(filters) = &find(chain, "filters")?.value.kind else { return None };
    filters.iter().enumerate().find_map(|(at, filter)| {
        let settings = &find(filter, "typed_config")?.value;
        if !settings.get_text("@type")?.ends_with(".TcpProxy") {
            return None;
        }
        let there = |name: &'static str| find(settings, name).map(|entry| (at, name, entry.span));
        there("route_config").or_else(|| there("deprecated_v1"))
    })
}

fn first_cluster(chain: &mut Node, filter: usize, field: &str) -> Option<Node> {
    let routes = &find(&find(proxy_of(chain, filter)?, field)?.value, "routes")?.value;
    Some(find(routes.items().first()?, "cluster")?.value.clone())
}

/// After an error a cluster stands for the routes, so that nothing more is said of them.
fn quiet(chain: &mut Node, filter: usize, field: &str, cluster: Option<Node>) {
    if let Some(proxy) = proxy_of(chain, filter) {
        take(proxy, field);
        if let Some(cluster) = cluster {
            add(proxy, "cluster", cluster);
        }
    }
}

/// Whether the chain's own conditions say nothing of addresses: then they hold in each new chain.
fn mergeable(chain: &Node) -> bool {
    let others = ["server_names", "transport_protocol", "application_protocols"];
    match find(chain, "filter_chain_match").map(|entry| &entry.value.kind) {
        Some(Kind::Map(entries)) => {
            entries.iter().all(|entry| others.contains(&super::snake(&entry.name).as_str()))
        }
        _ => true,
    }
}

/// The chains instead of one.
fn one(
    pass: &mut Pass<'_, '_>,
    chain: &mut Node,
    (filter, field, span): (usize, &'static str, Span),
    path: &Path<'_>,
) -> Option<Vec<Node>> {
    let mut old = take(proxy_of(chain, filter)?, field)?;
    let list = take(&mut old.value, "routes").map(|routes| items(routes.value)).unwrap_or_default();
    let mut routes = Vec::new();
    for (at, route) in list.into_iter().enumerate() {
        let written = path.key("filters").index(filter).key("typed_config").key(field).to_string();
        let written = format!("{written}.routes[{at}]");
        routes.push(conditions::route(pass, route, &Path::ROOT.moved(Some(&written)))?);
    }
    let cases = match cases(&routes) {
        Ok(cases) => cases,
        Err(why) => {
            pass.cannot(format!("`{field}` {why}"), HELP, span, path);
            return None;
        }
    };
    let count = cases.len();
    let chains = if count == 1 { "filter chain" } else { "filter chains" };
    let done = pass.done();
    let text = format!("`{field}` with conditions is a form of 2018, {done} {count} {chains}");
    pass.say(text, span, path);
    for (at, route) in routes.iter().enumerate() {
        if !cases.iter().any(|case| case.route == at) {
            let text = "this route is never taken, because those before it match first, and is left out";
            pass.out.warn(crate::diagnostic::Code::OldForm, text.to_owned(), route.span, path);
        }
    }
    let mut made = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let Some(mut copy) = pass.copy(chain) else {
            pass.cannot(format!("`{field}` makes very large filter chains"), HELP, span, path);
            return None;
        };
        if at > 0 {
            take(&mut copy, "name");
        }
        let route = routes.get(case.route)?;
        let cluster = renamed(&old.name, old.span, "cluster", route.cluster.clone());
        put(proxy_of(&mut copy, filter)?, old.index, cluster);
        conditions_of(&mut copy, case, span);
        made.push(from(copy, path));
    }
    Some(made)
}

/// The settings of the TCP proxy in a chain.
fn proxy_of(chain: &mut Node, filter: usize) -> Option<&mut Node> {
    let filters = &mut find_mut(chain, "filters")?.value;
    filters.origin = Origin::Touched;
    let Kind::List(filters) = &mut filters.kind else { return None };
    let filter = filters.get_mut(filter)?;
    filter.origin = Origin::Touched;
    Some(&mut find_mut(filter, "typed_config")?.value)
}

/// Writes the conditions of a case into a chain.
fn conditions_of(chain: &mut Node, case: &Case, span: Span) {
    let number = |port: &u16| Node::plain(span, port.to_string());
    let mut fields = Vec::new();
    if let Some(port) = case.port {
        fields.push(Entry::new("destination_port", number(&port)));
    }
    for (name, prefixes) in [("prefix_ranges", &case.to), ("source_prefix_ranges", &case.from)] {
        if !prefixes.is_empty() {
            let ranges = prefixes.iter().map(|prefix| prefix.node(span)).collect();
            fields.push(Entry::new(name, Node::list(span, ranges)));
        }
    }
    if !case.ports.is_empty() {
        fields.push(Entry::new("source_ports", Node::list(span, case.ports.iter().map(number).collect())));
    }
    if fields.is_empty() {
        return;
    }
    let there = find_mut(chain, "filter_chain_match").map(|entry| &mut entry.value);
    match there.filter(|there| matches!(there.kind, Kind::Map(_))) {
        Some(there) => {
            for field in fields {
                add(there, &field.name, field.value);
            }
        }
        None => {
            take(chain, "filter_chain_match");
            put(chain, 0, Entry::new("filter_chain_match", Node::map(span, fields)));
        }
    }
}

/// One chain: its conditions, and the route that is taken there. An empty list is no condition.
struct Case {
    port: Option<u16>,
    to: Vec<Prefix>,
    from: Vec<Prefix>,
    ports: Vec<u16>,
    route: usize,
}

/// Routes by the client's port; an empty list is any other.
type BySourcePort = Vec<(usize, Vec<u16>)>;
type BySource = Vec<(Vec<Prefix>, BySourcePort)>;
type ByTarget = Vec<(Vec<Prefix>, BySource)>;

/// All cases that the routes tell apart, in the order of the routes.
fn cases(routes: &[Route]) -> Result<Vec<Case>, String> {
    let ports: BTreeSet<u16> =
        routes.iter().flat_map(|route| route.to_ports.iter().flatten()).copied().collect();
    let from_ports: BTreeSet<u16> =
        routes.iter().flat_map(|route| route.from_ports.iter().flatten()).copied().collect();
    if ports.len() > MAX_PORTS {
        return Err(format!("names {} destination ports, more than {MAX_PORTS} filter chains", ports.len()));
    }
    let to = prefixes(routes, |route| route.to.as_deref());
    let source = prefixes(routes, |route| route.from.as_deref());
    let sizes = [ports.len() + 1, to.len(), source.len(), from_ports.len() + 1, routes.len()];
    if sizes.iter().try_fold(1_usize, |all, one| all.checked_mul(*one)).is_none_or(|all| all > MAX_CASES) {
        return Err("has more combinations of addresses and ports than can be filter chains".to_owned());
    }
    let table = |port: Option<u16>| -> ByTarget {
        by_prefix(&to, |to| {
            by_prefix(&source, |source| {
                let first = |from_port| routes.iter().position(|route| route.is(port, to, source, from_port));
                by_port(&from_ports, first)
            })
        })
    };
    let any = table(None);
    let mut tables: Vec<_> = ports.iter().map(|port| (Some(*port), table(Some(*port)))).collect();
    tables.retain(|(_, table)| *table != any);
    tables.push((None, any));
    let mut cases = Vec::new();
    for (port, table) in tables {
        for (to, sources) in table {
            for (from, routes) in sources {
                for (route, ports) in routes {
                    cases.push(Case { port, to: to.clone(), from: from.clone(), ports, route });
                }
            }
        }
    }
    if cases.is_empty() || cases.len() > MAX_CHAINS {
        return Err(format!("makes {} filter chains, not 1 to {MAX_CHAINS}", cases.len()));
    }
    cases.sort_by_key(|case| case.route);
    Ok(cases)
}

/// Each range that a route names, and those of all addresses.
fn prefixes<'r>(routes: &'r [Route], of: impl Fn(&'r Route) -> Option<&'r [Prefix]>) -> Vec<Prefix> {
    let named = routes.iter().filter_map(of).flatten().copied();
    named.chain(Prefix::ALL).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What holds in each range and not already in the range around it; ranges with the same answer are one.
fn by_prefix<T: PartialEq>(
    prefixes: &[Prefix],
    of: impl Fn(&Prefix) -> Vec<T>,
) -> Vec<(Vec<Prefix>, Vec<T>)> {
    let answers: Vec<_> = prefixes.iter().map(|prefix| (*prefix, of(prefix))).collect();
    let mut groups: Vec<(Vec<Prefix>, Vec<T>)> = Vec::new();
    let around = |prefix: &Prefix| {
        let wider = answers.iter().filter(|(other, _)| other != prefix && other.holds(prefix));
        wider.max_by_key(|(other, _)| other.len).map(|(other, _)| *other)
    };
    let wider: Vec<_> = prefixes.iter().map(around).collect();
    let kept: Vec<bool> = answers
        .iter()
        .zip(&wider)
        .map(|((_, answer), wider)| {
            let outer = wider.and_then(|wider| answers.iter().find(|(prefix, _)| *prefix == wider));
            !answer.is_empty() && outer.is_none_or(|(_, outer)| outer != answer)
        })
        .collect();
    for ((prefix, answer), kept) in answers.into_iter().zip(kept) {
        if !kept {
            continue;
        }
        match groups.iter_mut().find(|(_, there)| *there == answer) {
            Some((group, _)) => group.push(prefix),
            None => groups.push((vec![prefix], answer)),
        }
    }
    for (group, _) in &mut groups {
        if group.as_slice() == Prefix::ALL {
            group.clear();
        }
    }
    groups
}

fn by_port(ports: &BTreeSet<u16>, first: impl Fn(Option<u16>) -> Option<usize>) -> BySourcePort {
    let any = first(None);
    let mut found: BySourcePort = any.map(|route| (route, Vec::new())).into_iter().collect();
    let others = found.len();
    for port in ports {
        let Some(route) = first(Some(*port)).filter(|route| Some(*route) != any) else { continue };
        match found.iter_mut().skip(others).find(|(there, _)| *there == route) {
            Some((_, list)) => list.push(*port),
            None => found.push((route, vec![*port])),
        }
    }
    found
}
