//! Files that are cut anywhere.

use memory_image::{Form, Held, Image, Unreadable};

use crate::kdump::kdump;
use crate::{PAGE, page};

/// A file that is cut anywhere gives its pages, or says that they are cut off, or is damaged.
#[test]
fn a_file_that_is_cut_never_gives_another_page() {
    let kdump = kdump(4, false);
    let file = kdump.file();
    let mut buffer = vec![0; PAGE];
    let mut lost = 0;
    for length in (8..file.len()).step_by(997) {
        let Ok(image) = Image::open(&file[..length], 0) else { continue };
        assert_eq!(image.form(), Form::Kdump);
        for frame in &kdump.dumped {
            match image.read(frame * PAGE as u64, &mut buffer) {
                Ok(()) => assert_eq!(buffer, page(*frame)),
                Err(Unreadable::Missing { held, .. }) => {
                    assert_eq!(held, Held::CutOff);
                    assert!(image.warnings()[0].contains("cut off"));
                    lost += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(lost > 100, "{lost}");
    let mut damaged = file.clone();
    // The first page's length: its snappy data begins with it.
    let at = 2 * PAGE + 2 * PAGE * 3 + 24 * kdump.dumped.len();
    damaged[at] ^= 0x7f;
    let image = Image::open(&damaged[..], 0).unwrap();
    let error = image.read(0, &mut buffer).unwrap_err();
    assert!(matches!(error, Unreadable::Damaged { address: 0, .. }), "{error}");
}
