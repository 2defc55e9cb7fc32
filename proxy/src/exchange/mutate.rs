//! The header changes that the configuration asks for, level by level.

use super::Exchange;
use crate::headers::Mutations;
use crate::local_reply::LocalReply;

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

    pub(super) fn mutate_request(&mut self) -> Result<(), LocalReply> {
        let levels = self.levels();
        let values: Vec<_> =
            levels.iter().map(|level| level.request.evaluate(&self.format_context())).collect();
        for (level, values) in levels.iter().zip(&values) {
            let applied = level.request.apply_to_request(&mut self.request.fields, values);
            applied.map_err(|name| LocalReply::invalid_header_value(name.as_name()))?;
        }
        Ok(())
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
