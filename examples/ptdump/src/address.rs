//! Numbers as people write and paste them. Addresses are hexadecimal: `0x1000`, `7f12a4c00000`,
//! `00400000`, `fffff800`12345678`, `1_0000_0000`; only `0d4096` is decimal. Sizes are decimal:
//! `4096`, `2G`, `0x1000`.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use pgtable_ppc64::hash::{Slb, SlbEsid, SlbVsid};
use table_dump::RootChoice;

/// How an address is written.
pub const FORMS: &str = "an address is hexadecimal, with or without 0x (decimal after 0d)";

/// An address.
pub fn address(text: &str) -> Result<u64, String> {
    let mut digits = Cow::from(text.trim());
    if digits.bytes().any(|it| matches!(it, b'_' | b'`')) {
        digits.to_mut().retain(|it| !matches!(it, '_' | '`'));
    }
    let digits = digits.trim_end_matches(['h', 'H']);
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let number =
        match digits.strip_prefix("0d").filter(|it| it.bytes().all(|it| it.is_ascii_digit())) {
            Some(decimal) => decimal.parse(),
            None => u64::from_str_radix(hex.unwrap_or(digits), 16),
        };
    // `from_str_radix` takes a sign.
    let signed = digits.bytes().any(|it| matches!(it, b'+' | b'-'));
    number.ok().filter(|_| !signed).ok_or_else(|| FORMS.to_owned())
}

/// A number with K, M, G or T behind it, or none.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, unit)) if "KMGTkmgt".contains(unit) => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                _ => 40,
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let decimal = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.is_empty();
    let number = if decimal {
        digits.parse().map_err(|_| "too large".to_owned())?
    } else {
        // Only 0x makes it hexadecimal.
        let form = "a size is a number, with K, M, G or T or without";
        let number = Some(digits).filter(|it| it.starts_with(['0'])).map(address);
        number.and_then(Result::ok).ok_or(form)?
    };
    u64::checked_mul(number, 1 << shift).ok_or_else(|| "too large".to_owned())
}

/// Addresses from the first to the last, `FIRST-LAST` (the end of a line of /proc/PID/maps lies one
/// behind: that is no difference to a list), or `FIRST+LENGTH`.
pub fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    if let Some((first, length)) = text.split_once('+') {
        let (first, length) = (address(first)?, size(length)?);
        let last = length.checked_sub(1).and_then(|it| first.checked_add(it));
        return Ok(first..=last.ok_or("the range is empty, or ends beyond the last address")?);
    }
    let (first, last) = text.split_once('-').ok_or("a range is FIRST-LAST or FIRST+LENGTH")?;
    let (first, last) = (address(first)?, address(last)?);
    if first > last { Err("the range ends before it begins".to_owned()) } else { Ok(first..=last) }
}

/// A root: an address, or one of two names.
pub fn root(text: &str) -> Result<RootChoice, String> {
    match text {
        "kernel" => Ok(RootChoice::Kernel),
        "user" => Ok(RootChoice::User),
        _ => address(text)
            .map(RootChoice::Address)
            .map_err(|_| format!("a root is `kernel`, `user` or an address; {FORMS}")),
    }
}

/// Where something begins: an address, or a number with K, M, G or T behind it.
fn place(text: &str) -> Result<u64, String> {
    match text.chars().last() {
        Some('K' | 'M' | 'G' | 'T' | 'k' | 'm' | 'g' | 't') => size(text),
        _ => address(text),
    }
}

/// Where a piece of physical memory stands: `GPA:LENGTH@OFFSET[:FILE]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentText {
    pub start: u64,
    pub bytes: u64,
    pub offset: u64,
    pub file: Option<PathBuf>,
}

pub fn extent(text: &str) -> Result<ExtentText, String> {
    let form = "a piece of memory is GPA:LENGTH@OFFSET or GPA:LENGTH@OFFSET:FILE";
    let (memory, at) = text.split_once('@').ok_or(form)?;
    let (start, bytes) = memory.split_once(':').ok_or(form)?;
    let (offset, file) = match at.split_once(':') {
        Some((_, "")) => return Err(form.to_owned()),
        Some((offset, file)) => (offset, Some(PathBuf::from(file))),
        None => (at, None),
    };
    let (start, bytes, offset) = (place(start)?, size(bytes)?, place(offset)?);
    Ok(ExtentText { start, bytes, offset, file })
}

/// The two words of an SLB entry, `RB:RS` as `slbmte` takes them.
pub fn segment(text: &str) -> Result<(u64, u64), String> {
    let (rb, rs) = text.split_once(':').ok_or("an SLB entry is RB:RS, as slbmte takes them")?;
    Ok((address(rb)?, address(rs)?))
}

/// The SLB of these entries, whatever index they name; `None` for none.
pub fn slb(entries: &[(u64, u64)]) -> Result<Option<Box<Slb>>, String> {
    if entries.is_empty() {
        return Ok(None);
    }
    let mut slb = Slb::new();
    for (index, (rb, rs)) in entries.iter().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let rb = SlbEsid::from_bits(*rb).with_reserved_37(0).with_v(true).with_index(index);
        slb.slbmte(rb, SlbVsid::from_bits(*rs)).map_err(|error| format!("--slb: {error}"))?;
    }
    Ok(Some(Box::new(slb)))
}

/// Appends an address with all of its digits.
pub fn push(text: &mut String, address: u64) {
    text.push_str("0x");
    let digit = |n: u32| char::from_digit((address >> (4 * n) & 0xf) as u32, 16).unwrap_or('0');
    text.extend((0..16).rev().map(digit));
}

const UNITS: [(u32, &str); 7] =
    [(60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K"), (0, "")];

/// A size for people: exact in the largest unit of which it is a multiple, as long as that has four
/// digits or less; else rounded to two places.
pub fn human(bytes: u64) -> String {
    let exact = UNITS.into_iter().find(|(shift, _)| bytes & ((1 << shift) - 1) == 0);
    let (shift, unit) = if bytes == 0 { (0, "") } else { exact.unwrap_or((0, "")) };
    if bytes >> shift < 10_000 {
        return (bytes >> shift).to_string() + unit;
    }
    let (shift, unit) = UNITS.into_iter().find(|(shift, _)| bytes >> shift != 0).unwrap_or((0, ""));
    format!("{:.2}{unit}", bytes as f64 / (1_u64 << shift) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_stumble_addresses_as_people_paste_them() {
        for (text, want) in [
            ("0x1000", Some(0x1000)),
            ("0xFFFF_8880_0000_0000", Some(0xffff_8880_0000_0000)),
            ("ffff888000000000", Some(0xffff_8880_0000_0000)),
            ("7f12a4c00000", Some(0x7f12_a4c0_0000)),
            ("00400000", Some(0x40_0000)),
            ("7fff00000000", Some(0x7fff_0000_0000)),
            ("fffff800`12345678", Some(0xffff_f800_1234_5678)),
            ("0ffff888h", Some(0xfff_f888)),
            ("4096", Some(0x4096)),
            ("0d4096", Some(4096)),
            (" 400123\r", Some(0x40_0123)),
            ("ffff", Some(0xffff)),
            ("10000000000000000", None),
            ("0d", None),
            ("0x", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("main", None),
        ] {
            assert_eq!(address(text).ok(), want, "{text}");
        }
        for (text, want) in [
            ("2G", Some(2 << 30)),
            ("64k", Some(65536)),
            ("0x10M", Some(16 << 20)),
            ("123456789", Some(123_456_789)),
            ("99999999T", None),
            ("0d16", Some(16)),
            ("1e3", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (4096, "4K"),
            (3 << 20, "3M"),
            (0, "0"),
            (1, "1"),
            (1 << 40, "1T"),
            (0x1_1000, "68K"),
            (9_264_976 << 10, "8.84G"),
            (1028 << 10, "1028K"),
            (u64::MAX, "16.00E"),
            (1 << 60, "1E"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn ranges_pieces_and_roots() {
        assert_eq!(range("00400000-0040b000"), Ok(0x40_0000..=0x40_b000));
        assert_eq!(range("0x1000+8K"), Ok(0x1000..=0x2fff));
        for text in ["5", "2-1", "0x1000+0", "0xffffffffffffffff+2"] {
            assert!(range(text).is_err(), "{text}");
        }
        let file = Some(PathBuf::from("b:c"));
        let want = ExtentText { start: 4 << 30, bytes: 3 << 30, offset: 2 << 30, file };
        assert_eq!(extent("4G:3G@2G:b:c"), Ok(want));
        for text in ["4G:3G", "4G@0", "0:1000@0:", "0:1e3@0"] {
            assert!(extent(text).is_err(), "{text}");
        }
        // As /proc/PID/maps has them: hexadecimal, whatever digits they are of.
        let pasted =
            extent("100000000:4096@7012340000:/proc/1/mem").map(|it| (it.start, it.offset));
        assert_eq!(pasted, Ok((0x1_0000_0000, 0x70_1234_0000)));
        assert_eq!(root("kernel"), Ok(RootChoice::Kernel));
        assert_eq!(root("0x1000"), Ok(RootChoice::Address(0x1000)));
        assert!(root("nowhere").is_err());
    }

    #[test]
    fn segments() {
        let entries =
            [(0xc000_0000_0800_0000, 0x0000_7ef5_e1d7_8510), (0x1000_0000, 0x000f_9463_f51f_7d90)];
        let slb = slb(&entries).unwrap_or_default().unwrap_or_default();
        assert_eq!(
            slb.lookup(pgtable::Gva::new(0x1234_5678)).map(|segment| segment.vsid),
            Ok(0x00f9_463f_51f7)
        );
        assert!(super::slb(&[(0, 2 << 62)]).is_err());
        assert_eq!(segment("0x10:0x20"), Ok((16, 32)));
        assert!(segment("0x10").is_err());
    }
}
