//! Needs root, as it mounts.

use dayfly_sys::memory_fs::{Backing, backing, check_never_on_disk, mount_tmpfs_noswap};

#[test]
fn what_is_mounted_for_secrets_is_private_memory_that_never_swaps() -> Result<(), Box<dyn std::error::Error>>
{
    let dir = std::env::temp_dir().join(format!("dayfly-secrets-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let seen = mount_tmpfs_noswap(&dir, 64).map(|()| {
        let seen = (backing(&dir), check_never_on_disk(&dir), std::fs::metadata(&dir));
        nix::mount::umount(&dir).map(|()| seen)
    });
    std::fs::remove_dir(&dir)?;
    let (backing, checked, meta) = seen??;
    assert_eq!(backing?, Backing::Memory);
    checked?;
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&meta?) & 0o777, 0o700);
    Ok(())
}
