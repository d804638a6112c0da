//! A SQLite VFS over the system's own that writes down what reaches the disk in which order, and fails when told to.
//!
//! It becomes the process's default VFS, so the store is tested as it is; directories that nobody watches are passed
//! through. Syncs of watched directories are written down instead of done: the images made from the record say what
//! would have survived. Not responsible for making those images (`image`).

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::ffi;

/// One thing that happened, in the order in which it did.
#[derive(Clone, Debug)]
pub enum Happened {
    Write {
        file: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        length: usize,
    },
    Sync {
        file: String,
    },
    /// The kernel gave up on what wasn't synced, and won't try again.
    FailedSync {
        file: String,
    },
    Delete {
        file: String,
    },
    /// A client heard of this revision.
    Acknowledged {
        revision: i64,
    },
    /// A client heard that history begins here.
    Compacted {
        at: i64,
    },
}

/// What a disk does wrong from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    Full,
    FailingSync,
    FailingWrite,
}

#[derive(Debug)]
struct Watched {
    happened: Vec<Happened>,
    fault: Fault,
    /// Operations that still succeed before the fault begins.
    grace: usize,
}

/// A directory that is watched. Clones share it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Watched>>);

impl Recorder {
    /// Watches every database in a directory from now on.
    pub fn watch(directory: &Path) -> Recorder {
        install();
        let watched = Watched { happened: Vec::new(), fault: Fault::None, grace: 0 };
        let recorder = Recorder(Arc::new(Mutex::new(watched)));
        registry().lock().unwrap().insert(directory.to_owned(), recorder.clone());
        recorder
    }

    pub fn note(&self, happened: Happened) {
        self.0.lock().unwrap().happened.push(happened);
    }

    /// Lets a number of operations pass, then fails each of its kind until it is told `Fault::None`.
    pub fn fault(&self, fault: Fault, grace: usize) {
        let mut watched = self.0.lock().unwrap();
        (watched.fault, watched.grace) = (fault, grace);
    }

    pub fn take(&self) -> Vec<Happened> {
        std::mem::take(&mut self.0.lock().unwrap().happened)
    }

    /// Writes it down, or says what goes wrong instead.
    fn attempt(&self, happened: Happened) -> c_int {
        let mut watched = self.0.lock().unwrap();
        let meant = match (watched.fault, &happened) {
            (Fault::Full, Happened::Write { .. }) => ffi::SQLITE_FULL,
            (Fault::FailingWrite, Happened::Write { .. }) => ffi::SQLITE_IOERR_WRITE,
            (Fault::FailingSync, Happened::Sync { .. }) => ffi::SQLITE_IOERR_FSYNC,
            _ => ffi::SQLITE_OK,
        };
        if meant != ffi::SQLITE_OK && watched.grace > 0 {
            watched.grace -= 1;
        } else if meant != ffi::SQLITE_OK {
            if let Happened::Sync { file } = happened {
                watched.happened.push(Happened::FailedSync { file });
            }
            return meant;
        }
        watched.happened.push(happened);
        ffi::SQLITE_OK
    }
}

fn registry() -> &'static Mutex<HashMap<PathBuf, Recorder>> {
    static REGISTRY: OnceLock<Mutex<HashMap<PathBuf, Recorder>>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default)
}

fn watched(path: &Path) -> Option<(Recorder, String)> {
    let recorder = registry().lock().unwrap().get(path.parent()?)?.clone();
    Some((recorder, path.file_name()?.to_str()?.to_owned()))
}

/// What SQLite calls a file: its methods first, then ours, then the system's file right behind.
#[repr(C)]
struct Shim {
    methods: *const ffi::sqlite3_io_methods,
    seen: *mut (Recorder, String),
}

const OURS: usize = size_of::<Shim>();

fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        // SAFETY: the default VFS lives as long as the process, and so does the copy, which is never freed. Its other
        // methods take their VFS argument for nothing but `pAppData`, which we leave to the original in `open`.
        unsafe {
            let system = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = *system;
            ours.szOsFile += c_int::try_from(OURS).unwrap();
            ours.zName = c"recorder".as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.pAppData = system.cast();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1), ffi::SQLITE_OK);
        }
    });
}

/// SAFETY: `vfs` is the one `install` made.
unsafe fn system(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    unsafe { (*vfs).pAppData.cast() }
}

/// SAFETY: SQLite allocates `szOsFile` bytes, so the system's file lies behind ours.
unsafe fn below(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    unsafe { file.cast::<u8>().add(OURS).cast() }
}

/// SAFETY: as `below`, of an open file.
unsafe fn methods(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
    unsafe { &*(*below(file)).pMethods }
}

/// SAFETY: `file` is one that `open` filled.
unsafe fn seen(file: *mut ffi::sqlite3_file) -> Option<&'static (Recorder, String)> {
    unsafe { (*file.cast::<Shim>()).seen.as_ref() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: called by SQLite with what the VFS interface promises.
    unsafe {
        let shim = file.cast::<Shim>();
        ((*shim).methods, (*shim).seen) = (std::ptr::null(), std::ptr::null_mut());
        let system = system(vfs);
        let result = (*system).xOpen.unwrap()(system, name, below(file), flags, out);
        if !(*below(file)).pMethods.is_null() {
            (*shim).methods = &METHODS;
            if !name.is_null()
                && let Some(found) = watched(Path::new(CStr::from_ptr(name).to_str().unwrap()))
            {
                (*shim).seen = Box::into_raw(Box::new(found));
            }
        }
        result
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        if let Some((recorder, file)) = watched(Path::new(CStr::from_ptr(name).to_str().unwrap())) {
            recorder.note(Happened::Delete { file });
        }
        let system = system(vfs);
        (*system).xDelete.unwrap()(system, name, sync)
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `open`; nothing uses the box after the file is closed.
    unsafe {
        let shim = file.cast::<Shim>();
        if !(*shim).seen.is_null() {
            drop(Box::from_raw((*shim).seen));
        }
        methods(file).xClose.unwrap()(below(file))
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, length: c_int, offset: i64) -> c_int {
    // SAFETY: as in `open`; `data` has `length` bytes.
    unsafe {
        if let Some((recorder, name)) = seen(file) {
            let bytes = std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(length).unwrap()).to_vec();
            let offset = usize::try_from(offset).unwrap();
            let result = recorder.attempt(Happened::Write { file: name.clone(), offset, bytes });
            if result != ffi::SQLITE_OK {
                return result;
            }
        }
        methods(file).xWrite.unwrap()(below(file), data, length, offset)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        if let Some((recorder, name)) = seen(file) {
            recorder.note(Happened::Truncate { file: name.clone(), length: usize::try_from(length).unwrap() });
        }
        methods(file).xTruncate.unwrap()(below(file), length)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        match seen(file) {
            Some((recorder, name)) => recorder.attempt(Happened::Sync { file: name.clone() }),
            None => methods(file).xSync.unwrap()(below(file), flags),
        }
    }
}

/// A method that only has to reach the system's file.
macro_rules! pass {
    ($name:ident, $method:ident, ($($arg:ident: $type:ty),*) -> $result:ty) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($arg: $type),*) -> $result {
            // SAFETY: as in `open`; the arguments are SQLite's own.
            unsafe { methods(file).$method.unwrap()(below(file), $($arg),*) }
        }
    };
}

pass!(read, xRead, (data: *mut c_void, length: c_int, offset: i64) -> c_int);
pass!(file_size, xFileSize, (size: *mut i64) -> c_int);
pass!(lock, xLock, (level: c_int) -> c_int);
pass!(unlock, xUnlock, (level: c_int) -> c_int);
pass!(check_reserved_lock, xCheckReservedLock, (out: *mut c_int) -> c_int);
pass!(file_control, xFileControl, (op: c_int, argument: *mut c_void) -> c_int);
pass!(sector_size, xSectorSize, () -> c_int);
pass!(device_characteristics, xDeviceCharacteristics, () -> c_int);
pass!(shm_map, xShmMap, (page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int);
pass!(shm_lock, xShmLock, (offset: c_int, n: c_int, flags: c_int) -> c_int);
pass!(shm_barrier, xShmBarrier, () -> ());
pass!(shm_unmap, xShmUnmap, (delete: c_int) -> c_int);

/// Version 2: with shared memory, which the write-ahead log needs, and without memory maps.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
