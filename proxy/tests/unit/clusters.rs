//! The tree of clusters: it reads like a map, and one change costs hardly more in a larger one.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn name(at: usize) -> Arc<str> {
    format!("cluster-{at}").as_str().into()
}

fn many(count: usize) -> ByName<usize> {
    (0..count).map(|at| (name(at), Arc::new(at))).collect()
}

/// Places of all nodes by the address of their node.
fn nodes(node: &Node<usize>, all: &mut HashSet<(usize, usize)>) {
    match node {
        Node::Leaf(clusters) => {
            all.insert((Arc::as_ptr(clusters).addr(), clusters.len()));
        }
        Node::Branch { children, .. } => {
            all.insert((Arc::as_ptr(children).addr(), children.len()));
            children.iter().for_each(|child| nodes(child, all));
        }
    }
}

/// Pointers that one change copies, and places that a reader compares to find it.
fn cost_of_one_change(count: usize) -> (usize, usize) {
    let before = many(count);
    let mut after = before.clone();
    after.replace("cluster-7", Arc::new(7));
    let (mut old, mut new) = (HashSet::new(), HashSet::new());
    nodes(&before.root, &mut old);
    nodes(&after.root, &mut new);
    let copied = new.difference(&old).map(|(_, places)| places).sum();
    let mut found = 0;
    let compared = after.each_change(&before, &mut |_| found += 1);
    assert_eq!(found, 1);
    (copied, compared)
}

#[test]
fn a_change_of_one_cluster_costs_the_same_among_twice_as_many() {
    for count in [1000, 2000, 4000] {
        let (copied, compared) = cost_of_one_change(count);
        let (twice_copied, twice_compared) = cost_of_one_change(2 * count);
        // One level more, at most.
        assert!(twice_copied <= copied + WIDTH && twice_compared <= compared + WIDTH);
        assert!(copied <= 3 * WIDTH && compared <= 3 * WIDTH, "{copied} {compared}");
    }
}

proptest! {
    #[test]
    fn it_reads_like_a_map(count in 0usize..600, changes in prop::collection::vec(0usize..700, 0..20)) {
            let before = many(count);
        let mut after = before.clone();
        let mut map: BTreeMap<_, _> =
            before.iter().map(|(name, cluster)| (Arc::clone(name), Arc::clone(cluster))).collect();
        for at in &changes {
            let new = Arc::new(*at);
            after.replace(&name(*at), Arc::clone(&new));
            map.entry(name(*at)).and_modify(|old| *old = new);
        }
        prop_assert_eq!((after.len(), before.len()), (count, count));
        prop_assert!(after.iter().map(|(name, _)| name).eq(map.keys()));
        for (name, cluster) in &map {
            prop_assert!(Arc::ptr_eq(after.get(name).unwrap(), cluster));
        }
        let mut found = HashSet::new();
        after.each_change(&before, &mut |cluster| { found.insert(Arc::as_ptr(cluster)); });
        let wanted: HashSet<_> =
            changes.iter().filter_map(|at| after.get(&name(*at))).map(Arc::as_ptr).collect();
        prop_assert_eq!(&found, &wanted);
        // Against other names, too.
        let rebuilt: ByName<_> = map.into_iter().collect();
        found.clear();
        rebuilt.each_change(&before, &mut |cluster| { found.insert(Arc::as_ptr(cluster)); });
        prop_assert_eq!(&found, &wanted);
        for at in [count, usize::MAX] {
            prop_assert!(after.get(&name(at)).is_none());
        }
    }
}
