//! The header changes that the configuration asks for, level by level.

use super::Exchange;
use crate::message::RequestHead;
use crate::mutation::{Changes, Mutations};

impl<'x> Exchange<'x> {
    /// Applies the response mutations of route, virtual host and table.
    pub(super) fn mutate_response(&mut self) {
        let levels = self.levels();
        let values: Vec<_> =
            levels.iter().map(|level| level.response.evaluate(&self.format_context())).collect();
        for (level, values) in levels.iter().zip(&values) {
            level.response.apply(&mut self.response.fields, values);
        }
    }

    pub(super) fn mutate_request(&mut self) {
        let levels = self.levels();
        let values: Vec<_> =
            levels.iter().map(|level| level.request.evaluate(&self.format_context())).collect();
        for (level, values) in levels.iter().zip(&values) {
            apply_to_request(&level.request, &mut self.request, values);
        }
    }

    /// The levels that change something, in the order in which they are applied: the last one wins.
    fn levels(&self) -> smallvec::SmallVec<[&'x Mutations; 4]> {
        let mut levels = smallvec::SmallVec::new();
        let Some(matched) = self.matched else { return levels };
        levels.extend(matched.weighted);
        levels.extend([
            &matched.route.mutations,
            &matched.virtual_host.mutations,
            &self.context.manager.routes.mutations,
        ]);
        if self.context.manager.routes.most_specific_wins {
            levels.reverse();
        }
        levels.retain(|level| !level.is_empty());
        levels
    }
}

/// Header changes of a request may name `host` and pseudo-fields, which are not among the fields.
fn apply_to_request(changes: &Changes, request: &mut RequestHead, values: &[Vec<u8>]) {
    changes.apply(&mut request.fields, values);
    for (name, slot) in [("host", 0), (":authority", 0), (":path", 1)] {
        if let Some(value) = request.fields.get(name).map(<[u8]>::to_vec) {
            request.fields.remove(name);
            *(if slot == 0 { &mut request.authority } else { &mut request.path }) = value;
        }
    }
}
