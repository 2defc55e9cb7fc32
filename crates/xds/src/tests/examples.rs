//! Short files after the examples of Envoy's documentation: what petmesh supports reads without change, the rest is refused by name.

use super::{data, data_path};
use crate::{Code, Diagnostic, read_bootstrap, render_text, upgrade_bootstrap};

#[test]
fn examples_after_envoys_documentation_read_as_they_are() {
    let names = std::fs::read_dir(data_path("examples")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let (mut read, mut refused) = (0, 0);
    for name in names {
        let text = data(&format!("examples/{name}"));
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# refused: ")).collect();
        let found = match read_bootstrap(&name, &text) {
            Ok(read) => read.warnings,
            Err(found) => found,
        };
        let errors: Vec<_> =
            found.iter().filter(|found| found.is_error()).cloned().collect::<Vec<Diagnostic>>();
        let shown = render_text(&errors, &text);
        assert_eq!(errors.len(), expected.len(), "{name}:\n{shown}");
        for (error, expected) in errors.iter().zip(&expected) {
            let named = error.code == Code::NotImplemented && error.message.contains(expected);
            assert!(named && error.line.is_some(), "{name}: {expected}\n{shown}");
        }
        // They are files of today: there is nothing to upgrade.
        assert_eq!(upgrade_bootstrap(&name, &text).unwrap().text, text, "{name}");
        *if expected.is_empty() { &mut read } else { &mut refused } += 1;
    }
    assert!(read >= 9 && refused >= 8, "{read} read, {refused} refused");
}
