//! Files that a check of all pages must refuse although every checksum fits: what they say can't be.

use super::*;

/// The places of a page of the file.
fn place(page: Reference) -> std::ops::Range<usize> {
    let start = usize::try_from(page.offset).unwrap();
    start..start + usize::try_from(page.bytes()).unwrap()
}

/// Where bytes lie that are in a page once.
fn position(page: &[u8], bytes: &[u8]) -> usize {
    page.windows(bytes.len()).position(|window| window == bytes).unwrap()
}

/// Where the definition of a table begins that names this root.
fn definition_of(bytes: &[u8], root: Reference) -> usize {
    let first_page = usize::try_from(PAGE).unwrap();
    first_page + position(&bytes[first_page..], &root.checksum.to_le_bytes()) - 18
}

/// Names another checksum wherever this one is named.
fn rename(page: &mut [u8], before: u128, now: u128) {
    for at in 0..page.len() - 15 {
        if page[at..at + 16] == before.to_le_bytes() {
            page[at..at + 16].copy_from_slice(&now.to_le_bytes());
        }
    }
}

/// Makes all checksums of a tree fit again, from its leaves up; returns that of its root.
fn mend_tree(bytes: &mut [u8], root: Reference, layout: Layout) -> u128 {
    let before = bytes[place(root)].to_vec();
    for child in Node::read(&before, root.tree).unwrap().children(layout) {
        let now = mend_tree(bytes, child, layout);
        rename(&mut bytes[place(root)], child.checksum, now);
    }
    Node::read(&bytes[place(root)], root.tree).unwrap().checksum()
}

/// The same for the newest commit.
fn mend(bytes: &mut [u8]) {
    let header = Header::read(bytes, bytes.len() as u64).unwrap();
    for root in header.newest_first()[0].unwrap().roots.into_iter().flatten() {
        let now = mend_tree(bytes, root, header.layout);
        rename(&mut bytes[..HEADER_BYTES], root.checksum, now);
    }
    for start in [64, 192] {
        let checksum = twox_hash::XxHash3_128::oneshot(&bytes[start..start + 112]).to_le_bytes();
        bytes[start + 112..start + 128].copy_from_slice(&checksum);
    }
}

/// A store, and its pages of which something is so.
fn store_with(
    is_so: impl Fn(&Reference, &Node<'_>) -> bool,
) -> (TempDir, std::path::PathBuf, Vec<u8>, Vec<Reference>) {
    let (folder, path) = store();
    let bytes = fs::read(&path).unwrap();
    let is_so = |page: &Reference| is_so(page, &Node::read(&bytes[place(*page)], page.tree).unwrap());
    let pages: Vec<_> = named_pages(&path).into_iter().filter(is_so).collect();
    assert!(!pages.is_empty());
    (folder, path, bytes, pages)
}

/// A change of a page after which all checksums fit is found, at this page, by a check at once and in rounds.
fn is_found(path: &Path, sound: &[u8], changed: impl FnOnce(&mut [u8]), at: u64, what: &'static str) {
    let mut bytes = sound.to_vec();
    changed(&mut bytes);
    mend(&mut bytes);
    fs::write(path, &bytes).unwrap();
    assert_eq!(check_closed_file(path).unwrap().damaged, [(at, what)]);
    let (_, found) = check_in_rounds(&pages_of(path), 8 * PAGE);
    let of_all_rounds = what != OTHER_ROWS;
    assert_eq!(found.contains(&(at, what)), of_all_rounds, "{found:?}");
    assert!(found.iter().all(|found| *found == (at, what)), "{found:?}");
}

const IMPOSSIBLE: &str = "it names a page or a table that can't be";
/// Rows are counted by a check that reads all pages at once.
const OTHER_ROWS: &str = "its table has another number of rows";

fn is_branch_of_rows(page: &Reference, node: &Node<'_>) -> bool {
    page.tree == Tree::ROWS && !node.is_leaf()
}

fn is_leaf_of_rows(page: &Reference, node: &Node<'_>) -> bool {
    page.tree == Tree::ROWS && node.is_leaf()
}

#[test]
fn a_file_whose_checksums_were_mended_is_as_sound_as_before() {
    let (_folder, path, sound, _) = store_with(is_leaf_of_rows);
    let mut bytes = sound.clone();
    mend(&mut bytes);
    assert!(bytes == sound);
    assert_eq!(check_closed_file(&path).unwrap().damaged, []);
}

#[test]
fn a_table_with_another_number_of_rows_is_found() {
    let (_folder, path, sound, roots) = store_with(|page, _| page.rows.is_some() && page.tree == Tree::ROWS);
    let [root] = roots[..] else { panic!("{roots:?}") };
    let definition = definition_of(&sound, root);
    let rows = u64::from_le_bytes(sound[definition + 1..definition + 9].try_into().unwrap());
    assert_eq!(Some(rows), root.rows);
    for other in [rows - 1, rows + 1, 0] {
        let change =
            |bytes: &mut [u8]| bytes[definition + 1..definition + 9].copy_from_slice(&other.to_le_bytes());
        is_found(&path, &sound, change, root.offset, OTHER_ROWS);
    }
}

#[test]
fn keys_that_are_out_of_order_are_found() {
    let (_folder, path, sound, leaves) = store_with(is_leaf_of_rows);
    for leaf in leaves.into_iter().step_by(7) {
        let page = sound[place(leaf)].to_vec();
        let node = Node::read(&page, leaf.tree).unwrap();
        let [first, second] = [0, 1].map(|n| node.key(n).unwrap());
        assert_eq!(first.len(), second.len());
        let change = |bytes: &mut [u8]| {
            bytes[place(leaf)][position(&page, first)..][..first.len()].copy_from_slice(second);
            bytes[place(leaf)][position(&page, second)..][..first.len()].copy_from_slice(first);
        };
        is_found(&path, &sound, change, leaf.offset, "its keys are out of order");
    }
}

#[test]
fn a_page_that_is_named_twice_is_found() {
    let (_folder, path, sound, branches) = store_with(is_branch_of_rows);
    for branch in branches {
        let page = sound[place(branch)].to_vec();
        let layout = Header::read(&sound, sound.len() as u64).unwrap().layout;
        let children: Vec<_> = Node::read(&page, branch.tree).unwrap().children(layout).collect();
        let change = |bytes: &mut [u8]| {
            let page = &mut bytes[place(branch)];
            // The second is named where the first was.
            page.copy_within(8 + 16..8 + 32, 8);
            let numbers = 8 + 16 * children.len();
            page.copy_within(numbers + 8..numbers + 16, numbers);
        };
        is_found(&path, &sound, change, children[1].offset, "it is named twice");
    }
}

#[test]
fn a_branch_that_names_no_page_of_the_file_is_found() {
    let (_folder, path, sound, branches) = store_with(is_branch_of_rows);
    let longest = longest_read(&path);
    for branch in branches {
        let children =
            usize::from(u16::from_le_bytes([sound[place(branch)][2], sound[place(branch)][3]])) + 1;
        // A larger one than the file, and not where a page lies that redb has read.
        let change = |bytes: &mut [u8]| bytes[place(branch)][8 + 16 * children + 7] |= 10 << 3;
        is_found(&path, &sound, change, branch.offset, IMPOSSIBLE);
        assert!(longest_read(&path) <= longest, "the page at {}", branch.offset);
    }
}

#[test]
fn a_list_of_freed_pages_that_names_none_of_the_file_is_found() {
    let is_list = |page: &Reference, node: &Node<'_>| {
        let of_lists = matches!(page.tree, Tree::Table { freed: true, .. });
        of_lists && node.is_leaf() && node.pairs().any(|(_, list)| list[..2] != [0, 0])
    };
    let (_folder, path, sound, leaves) = store_with(is_list);
    for leaf in leaves {
        let page = sound[place(leaf)].to_vec();
        let node = Node::read(&page, leaf.tree).unwrap();
        let (_, list) = node.pairs().find(|(_, list)| list[..2] != [0, 0]).unwrap();
        let list = position(&page, list);
        let change = |bytes: &mut [u8]| bytes[place(leaf)][list + 2 + 7] |= 20 << 3;
        is_found(&path, &sound, change, leaf.offset, IMPOSSIBLE);
    }
}

#[test]
fn a_table_of_another_kind_is_found() {
    let (_folder, path, sound, roots) = store_with(|page, _| page.rows.is_some() && page.tree == Tree::ROWS);
    let (_, _, _, definitions) = store_with(|page, _| page.tree == Tree::Definitions);
    let definition = definition_of(&sound, roots[0]);
    let page = definitions.into_iter().find(|page| place(*page).contains(&definition)).unwrap();
    is_found(&path, &sound, |bytes| bytes[definition] = 4, page.offset, IMPOSSIBLE);
}
