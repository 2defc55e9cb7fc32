//! The nearest name to a misspelt one.

/// Longer words than this have no near ones: the work grows with the product of two lengths.
const MAX_LENGTH: usize = 160;

/// The candidate that is nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 4 * MAX_LENGTH {
        return None;
    }
    let word = plain(word);
    if word.is_empty() || word.len() > MAX_LENGTH {
        return None;
    }
    // A third of a word may be wrong, but no more than a few letters of a long one.
    let limit = (word.len() / 3).clamp(1, 5);
    let distances = candidates.filter_map(|candidate| {
        // As many edits as the lengths differ by are needed in any case.
        let plain = plain(candidate.get(..4 * MAX_LENGTH).unwrap_or(candidate));
        (plain.len().abs_diff(word.len()) <= limit).then(|| (distance(&word, &plain), candidate))
    });
    distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// Lower case without separators: `statPrefix`, `stat-prefix` and `stat_prefix` are the same.
fn plain(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
}

/// Edits between two words: insert, delete, replace, or swap two neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let (mut before, mut above) = (Vec::new(), (0..=b.len()).collect::<Vec<_>>());
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = above[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let names = ["prefix", "path", "safe_regex", "case_sensitive"];
        let near = |word| nearest(word, names.into_iter());
        assert_eq!(near("prefx"), Some("prefix"));
        assert_eq!(near("pathh"), Some("path"));
        assert_eq!(near("saferegex"), Some("safe_regex"));
        assert_eq!(near("perfix"), Some("prefix"));
        assert_eq!(near("zebra"), None);
        assert_eq!(near(""), None);
    }
}
