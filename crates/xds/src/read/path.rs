//! The way from the root to a node, kept on the stack and written out only for a finding.

/// A path: its last step and the path before it.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    before: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
    /// The whole path of a node that an upgrade moved, as the file writes it.
    Moved(&'a str),
}

impl<'a> Path<'a> {
    pub(crate) const ROOT: Path<'static> = Path { before: None, step: Step::Root };

    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { before: Some(self), step: Step::Key(key) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path { before: Some(self), step: Step::Index(index) }
    }

    /// The same path, unless the node was moved.
    pub(crate) fn moved(self, written: Option<&'a str>) -> Path<'a> {
        match written {
            Some(written) => Path { before: None, step: Step::Moved(written) },
            None => self,
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(before) = self.before {
            before.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Moved(written) => f.write_str(written),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '@')) => {
                let first =
                    self.before.is_none_or(|before| matches!(before.step, Step::Root | Step::Moved("")));
                write!(f, "{}{key}", if first { "" } else { "." })
            }
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}
