//! A property whose name is longer than the devicetree specification allows: `vm-fdt` keeps to that
//! (31 characters), PAPR does not.
//!
//! The property is written under another name; in the finished tree that name is given up for the
//! long one, which is appended to the strings, the last block (Devicetree Specification v0.4,
//! chapter 5).

/// Which word of the header: the total size, `totalsize`.
const TOTAL: usize = 1;
/// `off_dt_struct`.
const STRUCTURE: usize = 2;
/// `off_dt_strings`.
const STRINGS: usize = 3;
/// `size_dt_strings`.
const STRINGS_SIZE: usize = 8;
/// `size_dt_struct`.
const STRUCTURE_SIZE: usize = 9;

/// Tokens of the structure.
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

/// Renames every property `short` of `tree` to `long`. `None`: it is no such tree, or has no such
/// property.
pub fn rename(tree: &mut Vec<u8>, short: &str, long: &str) -> Option<()> {
    let word =
        |tree: &[u8], at: usize| Some(u32::from_be_bytes(tree.get(at..at + 4)?.try_into().ok()?));
    let header = |tree: &[u8], index: usize| word(tree, 4 * index).map(|it| it as usize);
    let (structure, strings) = (header(tree, STRUCTURE)?, header(tree, STRINGS)?);
    let (structure_size, strings_size) =
        (header(tree, STRUCTURE_SIZE)?, header(tree, STRINGS_SIZE)?);
    // The strings are the last block; else there is no room behind them.
    if strings.checked_add(strings_size)? != tree.len() {
        return None;
    }
    let name = [short.as_bytes(), &[0]].concat();
    let block = tree.get(strings..)?;
    let old = (0..block.len())
        .find(|at| block[*at..].starts_with(&name) && (*at == 0 || block[at - 1] == 0))?;
    let new = u32::try_from(strings_size).ok()?;

    let mut at = structure;
    let mut renamed = false;
    while at < structure.checked_add(structure_size)? {
        let token = word(tree, at)?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let length = tree.get(at..)?.iter().position(|byte| *byte == 0)?;
                at = (at + length + 1).next_multiple_of(4);
            }
            PROP => {
                let length = word(tree, at)? as usize;
                if word(tree, at + 4)? as usize == old {
                    tree.get_mut(at + 4..at + 8)?.copy_from_slice(&new.to_be_bytes());
                    renamed = true;
                }
                at = at.checked_add(8 + length)?.next_multiple_of(4);
            }
            END_NODE | NOP => {}
            _ => break,
        }
    }
    tree.extend([long.as_bytes(), &[0]].concat());
    for (index, value) in [(TOTAL, tree.len()), (STRINGS_SIZE, tree.len() - strings)] {
        tree.get_mut(4 * index..4 * index + 4)?
            .copy_from_slice(&u32::try_from(value).ok()?.to_be_bytes());
    }
    renamed.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_fdt::FdtWriter;

    #[test]
    fn the_long_name_takes_the_place_of_the_short_one() -> Result<(), vm_fdt::Error> {
        let mut writer = FdtWriter::new()?;
        let root = writer.begin_node("")?;
        writer.property_string("not,short", "x")?;
        writer.property_u32("short", 7)?;
        writer.property_u32("other", 8)?;
        writer.end_node(root)?;
        let before = writer.finish()?;
        let mut after = before.clone();
        let long = "a-name-that-is-longer-than-31-characters";
        assert_eq!(rename(&mut after, "short", long), Some(()));
        assert!(after.ends_with(b"a-name-that-is-longer-than-31-characters\0"));
        assert_eq!(after.len(), before.len() + long.len() + 1);
        assert_eq!(
            u32::from_be_bytes([after[4], after[5], after[6], after[7]]) as usize,
            after.len()
        );
        // One name offset, the total size and the size of the strings changed, and nothing else.
        let differing = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!((3..=12).contains(&differing), "{differing}");
        assert_eq!(rename(&mut after, "absent", "long"), None);
        assert_eq!(rename(&mut vec![0; 8], "short", "long"), None);
        Ok(())
    }
}
