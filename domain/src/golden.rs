//! Golden texts in `tests/golden/`: a changed rule is a changed line in review.

use std::path::Path;

/// Compares with the committed text. `UPDATE_GOLDEN=1` writes it instead.
pub(crate) fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden folder is writable");
        return;
    }
    let golden = std::fs::read_to_string(&path).expect("the golden text is committed");
    assert_eq!(
        text, golden,
        "{name} changed; if on purpose, run the test with UPDATE_GOLDEN=1 and review the diff"
    );
}
