//! The clusters by name, as a tree whose versions share all that did not change.
//!
//! A cluster's hosts change far more often than the names do. One new version of one cluster copies
//! the branch that leads to it, and a reader finds what differs from the version that it has
//! without a look at the rest: both cost a logarithm of the number of clusters.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cluster;

#[cfg(test)]
#[path = "../../tests/unit/clusters.rs"]
mod tests;

/// Children of a node, and clusters of a leaf.
const WIDTH: usize = 16;

/// All clusters.
pub type Clusters = ByName<Cluster>;

/// Values by name. The names are fixed, the values are not.
#[derive(Debug)]
pub struct ByName<T> {
    /// The place of each name; another one whenever names come or go.
    places: Arc<BTreeMap<Arc<str>, usize>>,
    root: Node<T>,
}

#[derive(Debug)]
enum Node<T> {
    Leaf(Arc<Vec<Arc<T>>>),
    /// Every child but the last holds `span` clusters.
    Branch {
        span: usize,
        children: Arc<Vec<Node<T>>>,
    },
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self::Leaf(Arc::default())
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { places: Arc::default(), root: Node::default() }
    }
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(clusters) => Self::Leaf(Arc::clone(clusters)),
            Self::Branch { span, children } => Self::Branch { span: *span, children: Arc::clone(children) },
        }
    }
}

impl<T> Clone for ByName<T> {
    fn clone(&self) -> Self {
        Self { places: Arc::clone(&self.places), root: self.root.clone() }
    }
}

impl<T> ByName<T> {
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.root.get(*self.places.get(name)?)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.places.iter().filter_map(|(name, place)| Some((name, self.root.get(*place)?)))
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.places.keys()
    }

    /// Another version of a cluster that is in it.
    pub(crate) fn replace(&mut self, name: &str, cluster: Arc<T>) {
        if let Some(place) = self.places.get(name) {
            self.root.replace(*place, cluster);
        }
    }

    /// Whether it has the same names as an earlier version, by pointer.
    pub(crate) fn has_names_of(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.places, &before.places)
    }

    /// Calls `found` for each cluster that is not the same in `before`; how many places were
    /// compared for it.
    pub(crate) fn each_change(&self, before: &Self, found: &mut impl FnMut(&Arc<T>)) -> usize {
        if self.has_names_of(before) {
            return self.root.each_change(&before.root, found);
        }
        for (name, cluster) in self.iter() {
            if before.get(name).is_none_or(|before| !Arc::ptr_eq(before, cluster)) {
                found(cluster);
            }
        }
        self.len()
    }
}

impl<T> FromIterator<(Arc<str>, Arc<T>)> for ByName<T> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<T>)>>(all: I) -> Self {
        let all: BTreeMap<_, _> = all.into_iter().collect();
        let clusters: Vec<_> = all.values().map(Arc::clone).collect();
        let leaves = clusters.chunks(WIDTH).map(|chunk| Node::Leaf(Arc::new(chunk.to_vec())));
        let (mut nodes, mut span): (Vec<_>, _) = (leaves.collect(), WIDTH);
        while nodes.len() > 1 {
            let branch = |chunk: &[Node<T>]| Node::Branch { span, children: Arc::new(chunk.to_vec()) };
            nodes = nodes.chunks(WIDTH).map(branch).collect();
            span = span.saturating_mul(WIDTH);
        }
        let places = all.into_keys().enumerate().map(|(place, name)| (name, place)).collect();
        Self { places: Arc::new(places), root: nodes.pop().unwrap_or_default() }
    }
}

impl<T> Node<T> {
    fn get(&self, place: usize) -> Option<&Arc<T>> {
        match self {
            Self::Leaf(clusters) => clusters.get(place),
            Self::Branch { span, children } => children.get(place / span)?.get(place % span),
        }
    }

    fn replace(&mut self, place: usize, cluster: Arc<T>) {
        match self {
            Self::Leaf(clusters) => {
                if let Some(at) = Arc::make_mut(clusters).get_mut(place) {
                    *at = cluster;
                }
            }
            Self::Branch { span, children } => {
                if let Some(child) = Arc::make_mut(children).get_mut(place / *span) {
                    child.replace(place % *span, cluster);
                }
            }
        }
    }

    /// Of two trees of one shape.
    fn each_change(&self, before: &Self, found: &mut impl FnMut(&Arc<T>)) -> usize {
        match (self, before) {
            (Self::Leaf(now), Self::Leaf(before)) if !Arc::ptr_eq(now, before) => {
                for (now, before) in now.iter().zip(before.iter()) {
                    if !Arc::ptr_eq(now, before) {
                        found(now);
                    }
                }
                now.len()
            }
            (Self::Branch { children: now, .. }, Self::Branch { children: before, .. })
                if !Arc::ptr_eq(now, before) =>
            {
                let below = now.iter().zip(before.iter());
                now.len() + below.map(|(now, before)| now.each_change(before, found)).sum::<usize>()
            }
            _ => 0,
        }
    }
}
