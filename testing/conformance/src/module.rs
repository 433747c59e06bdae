//! The C interface of PKCS#11 behind safe functions, one C call each, so that what is measured is the module.

use std::path::Path;
use std::ptr;
use std::sync::Arc;

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_C_INITIALIZE_ARGS, CK_FLAGS, CK_GCM_PARAMS, CK_MECHANISM, CK_MECHANISM_TYPE,
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CKF_OS_LOCKING_OK,
    CKF_RW_SESSION, CKF_SERIAL_SESSION, CKM_AES_GCM, CKR_OK, Pkcs11,
};

/// Handles that one `C_FindObjects` may give.
const FIND_STEP: usize = 256;

/// A C function that answered something else than `CKR_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub function: &'static str,
    /// Its `CKR_…`.
    pub code: CK_RV,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} answered {:#x}", self.function, self.code)
    }
}

impl std::error::Error for Refused {}

fn check(function: &'static str, code: CK_RV) -> Result<(), Refused> {
    if code == CKR_OK { Ok(()) } else { Err(Refused { function, code }) }
}

/// A loaded and initialised module. Finalised when the last owner drops it.
pub struct Module {
    functions: Pkcs11,
}

impl Module {
    /// Loads a library and calls `C_Initialize` for use by several threads.
    ///
    /// # Errors
    /// A sentence when it cannot be loaded, or its refusal.
    pub fn load(path: &Path) -> Result<Arc<Self>, String> {
        // SAFETY: the library's constructors run here; the person named it in order to have it loaded.
        let functions = unsafe { Pkcs11::new(path) }.map_err(|error| format!("{}: {error}", path.display()))?;
        let mut arguments = CK_C_INITIALIZE_ARGS {
            CreateMutex: None,
            DestroyMutex: None,
            LockMutex: None,
            UnlockMutex: None,
            flags: CKF_OS_LOCKING_OK,
            pReserved: ptr::null_mut(),
        };
        // SAFETY: `arguments` lives through the call and has the form that PKCS#11 asks for.
        let code = unsafe { functions.C_Initialize((&raw mut arguments).cast()) };
        check("C_Initialize", code).map_err(|refused| refused.to_string())?;
        Ok(Arc::new(Self { functions }))
    }

    /// The slot whose token has this label.
    ///
    /// # Errors
    /// A sentence.
    pub fn slot(&self, label: &str) -> Result<CK_SLOT_ID, String> {
        let mut slots = [0; 64];
        let mut count = slots.len() as CK_ULONG;
        // SAFETY: `slots` has room for `count` entries.
        let code = unsafe { self.functions.C_GetSlotList(1, slots.as_mut_ptr(), &raw mut count) };
        check("C_GetSlotList", code).map_err(|refused| refused.to_string())?;
        for &slot in &slots[..usize::try_from(count).map_err(|_| "too many slots")?] {
            let mut info = CK_TOKEN_INFO::default();
            // SAFETY: `info` is a whole CK_TOKEN_INFO.
            let code = unsafe { self.functions.C_GetTokenInfo(slot, &raw mut info) };
            if code == CKR_OK && String::from_utf8_lossy(&info.label).trim_end_matches([' ', '\0']) == label {
                return Ok(slot);
            }
        }
        Err(format!("no token has the label {label:?}"))
    }

    /// Opens a session that may write.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(self: &Arc<Self>, slot: CK_SLOT_ID) -> Result<Session, Refused> {
        let flags: CK_FLAGS = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        let mut handle = 0;
        // SAFETY: no notification is asked for; `handle` lives through the call.
        let code = unsafe { self.functions.C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut handle) };
        check("C_OpenSession", code)?;
        Ok(Session { module: Arc::clone(self), handle })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: every session holds the module, so none is left. A refusal has no one to hear it here.
        let _code = unsafe { self.functions.C_Finalize(ptr::null_mut()) };
    }
}

/// A session. Closed on drop.
pub struct Session {
    module: Arc<Module>,
    handle: CK_SESSION_HANDLE,
}

/// One attribute with its value.
pub struct Attribute {
    kind: CK_ATTRIBUTE_TYPE,
    value: Vec<u8>,
}

impl Attribute {
    /// A `CK_BBOOL`.
    pub fn flag(kind: CK_ATTRIBUTE_TYPE, flag: bool) -> Self {
        Self { kind, value: vec![u8::from(flag)] }
    }

    /// A `CK_ULONG`.
    pub fn number(kind: CK_ATTRIBUTE_TYPE, number: CK_ULONG) -> Self {
        Self { kind, value: number.to_ne_bytes().to_vec() }
    }

    /// Octets.
    pub fn octets(kind: CK_ATTRIBUTE_TYPE, octets: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: octets.into() }
    }
}

/// The C form of a template. Valid as long as `attributes` is.
fn template(attributes: &[Attribute]) -> Vec<CK_ATTRIBUTE> {
    let item = |attribute: &Attribute| CK_ATTRIBUTE {
        type_: attribute.kind,
        pValue: attribute.value.as_ptr().cast_mut().cast(),
        ulValueLen: attribute.value.len() as CK_ULONG,
    };
    attributes.iter().map(item).collect()
}

/// A mechanism with its parameters.
pub enum Mechanism {
    /// None.
    Plain(CK_MECHANISM_TYPE),
    /// Octets as they are: an initialization vector.
    Octets(CK_MECHANISM_TYPE, Vec<u8>),
    /// `CKM_AES_GCM` without additional data and with a tag of 16 bytes.
    Gcm(Vec<u8>),
}

impl Mechanism {
    /// Calls with the C form, which lives only that long.
    fn call<R>(&self, call: impl FnOnce(*mut CK_MECHANISM) -> R) -> R {
        let with = |mechanism, start: *const u8, length: usize| {
            let mut form =
                CK_MECHANISM { mechanism, pParameter: start.cast_mut().cast(), ulParameterLen: length as CK_ULONG };
            call(&raw mut form)
        };
        match self {
            Self::Plain(kind) => with(*kind, ptr::null(), 0),
            Self::Octets(kind, octets) => with(*kind, octets.as_ptr(), octets.len()),
            Self::Gcm(iv) => {
                let parameters = CK_GCM_PARAMS {
                    pIv: iv.as_ptr().cast_mut(),
                    ulIvLen: iv.len() as CK_ULONG,
                    ulIvBits: (iv.len() * 8) as CK_ULONG,
                    pAAD: ptr::null_mut(),
                    ulAADLen: 0,
                    ulTagBits: 128,
                };
                with(CKM_AES_GCM, (&raw const parameters).cast(), size_of::<CK_GCM_PARAMS>())
            }
        }
    }
}

impl Session {
    /// Another session on the same slot needs no login of its own; this is `C_Login`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn log_in(&self, user: CK_USER_TYPE, pin: &str) -> Result<(), Refused> {
        let mut pin = pin.as_bytes().to_vec();
        // SAFETY: `pin` has the length that is given.
        let code = unsafe { self.functions().C_Login(self.handle, user, pin.as_mut_ptr(), pin.len() as CK_ULONG) };
        check("C_Login", code)
    }

    /// `C_Logout`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn log_out(&self) -> Result<(), Refused> {
        // SAFETY: no pointers.
        check("C_Logout", unsafe { self.functions().C_Logout(self.handle) })
    }

    /// `C_GenerateKey`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn generate_key(&self, kind: CK_MECHANISM_TYPE, attributes: &[Attribute]) -> Result<CK_OBJECT_HANDLE, Refused> {
        let (mut template, mut key) = (template(attributes), 0);
        let (start, length) = (template.as_mut_ptr(), template.len() as CK_ULONG);
        // SAFETY: mechanism, template and key live through the call; the template's values are `attributes`'.
        let code = Mechanism::Plain(kind)
            .call(|form| unsafe { self.functions().C_GenerateKey(self.handle, form, start, length, &raw mut key) });
        check("C_GenerateKey", code).map(|()| key)
    }

    /// `C_GenerateKeyPair`: public and private key.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn generate_pair(
        &self,
        kind: CK_MECHANISM_TYPE,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), Refused> {
        let (mut public, mut private) = (template(public), template(private));
        let (mut public_key, mut private_key) = (0, 0);
        // SAFETY: everything pointed to lives through the call, and the lengths are the vectors'.
        let code = Mechanism::Plain(kind).call(|form| unsafe {
            self.functions().C_GenerateKeyPair(
                self.handle,
                form,
                public.as_mut_ptr(),
                public.len() as CK_ULONG,
                private.as_mut_ptr(),
                private.len() as CK_ULONG,
                &raw mut public_key,
                &raw mut private_key,
            )
        });
        check("C_GenerateKeyPair", code).map(|()| (public_key, private_key))
    }

    /// `C_CreateObject`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn create(&self, attributes: &[Attribute]) -> Result<CK_OBJECT_HANDLE, Refused> {
        let (mut template, mut object) = (template(attributes), 0);
        let length = template.len() as CK_ULONG;
        // SAFETY: the template and its values live through the call.
        let code =
            unsafe { self.functions().C_CreateObject(self.handle, template.as_mut_ptr(), length, &raw mut object) };
        check("C_CreateObject", code).map(|()| object)
    }

    /// `C_DestroyObject`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn destroy(&self, object: CK_OBJECT_HANDLE) -> Result<(), Refused> {
        // SAFETY: no pointers.
        check("C_DestroyObject", unsafe { self.functions().C_DestroyObject(self.handle, object) })
    }

    /// Every object that fits, by `C_FindObjectsInit`, `C_FindObjects` until it gives none, and `C_FindObjectsFinal`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn find(&self, attributes: &[Attribute]) -> Result<Vec<CK_OBJECT_HANDLE>, Refused> {
        let mut template = template(attributes);
        let length = template.len() as CK_ULONG;
        // SAFETY: the template and its values live through the call.
        let code = unsafe { self.functions().C_FindObjectsInit(self.handle, template.as_mut_ptr(), length) };
        check("C_FindObjectsInit", code)?;
        let mut found = Vec::new();
        let outcome = loop {
            let (mut step, mut count) = ([0; FIND_STEP], 0);
            // SAFETY: `step` has room for the number that is given.
            let code = unsafe {
                let room = FIND_STEP as CK_ULONG;
                self.functions().C_FindObjects(self.handle, step.as_mut_ptr(), room, &raw mut count)
            };
            let count = usize::try_from(count).unwrap_or(0).min(FIND_STEP);
            found.extend_from_slice(&step[..count]);
            if code != CKR_OK || count == 0 {
                break check("C_FindObjects", code);
            }
        };
        // SAFETY: no pointers.
        check("C_FindObjectsFinal", unsafe { self.functions().C_FindObjectsFinal(self.handle) })?;
        outcome.map(|()| found)
    }

    /// One attribute of octets, by one `C_GetAttributeValue`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn read(&self, object: CK_OBJECT_HANDLE, kind: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, Refused> {
        let mut value = vec![0; 16 * 1024];
        let mut item =
            CK_ATTRIBUTE { type_: kind, pValue: value.as_mut_ptr().cast(), ulValueLen: value.len() as CK_ULONG };
        // SAFETY: `item` points to `value` and names its length.
        let code = unsafe { self.functions().C_GetAttributeValue(self.handle, object, &raw mut item, 1) };
        check("C_GetAttributeValue", code)?;
        value.truncate(usize::try_from(item.ulValueLen).unwrap_or(0));
        Ok(value)
    }

    /// `C_SignInit` and `C_Sign` into `out`; gives the length.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn sign(
        &self,
        mechanism: &Mechanism,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Refused> {
        // SAFETY: the mechanism and what it points to live through the call.
        check("C_SignInit", mechanism.call(|form| unsafe { self.functions().C_SignInit(self.handle, form, key) }))?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: data and out have the lengths that are given; PKCS#11 does not write to data.
        let code = unsafe {
            let data_start = data.as_ptr().cast_mut();
            self.functions().C_Sign(self.handle, data_start, data.len() as CK_ULONG, out.as_mut_ptr(), &raw mut length)
        };
        check("C_Sign", code).map(|()| usize::try_from(length).unwrap_or(0))
    }

    /// `C_EncryptInit` and `C_Encrypt` into `out`; gives the length.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn encrypt(
        &self,
        mechanism: &Mechanism,
        key: CK_OBJECT_HANDLE,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Refused> {
        let init = |form| {
            // SAFETY: the mechanism and what it points to live through the call.
            unsafe { self.functions().C_EncryptInit(self.handle, form, key) }
        };
        check("C_EncryptInit", mechanism.call(init))?;
        let mut length = out.len() as CK_ULONG;
        // SAFETY: data and out have the lengths that are given; PKCS#11 does not write to data.
        let code = unsafe {
            let data_start = data.as_ptr().cast_mut();
            self.functions().C_Encrypt(
                self.handle,
                data_start,
                data.len() as CK_ULONG,
                out.as_mut_ptr(),
                &raw mut length,
            )
        };
        check("C_Encrypt", code).map(|()| usize::try_from(length).unwrap_or(0))
    }

    /// `C_WrapKey`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn wrap(
        &self,
        mechanism: &Mechanism,
        wrapping: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Result<Vec<u8>, Refused> {
        let mut out = vec![0; 16 * 1024];
        let mut length = out.len() as CK_ULONG;
        let start = out.as_mut_ptr();
        // SAFETY: `out` has the length that is given; the mechanism and what it points to live through the call.
        let code = mechanism.call(|form| unsafe {
            self.functions().C_WrapKey(self.handle, form, wrapping, key, start, &raw mut length)
        });
        check("C_WrapKey", code)?;
        out.truncate(usize::try_from(length).unwrap_or(0));
        Ok(out)
    }

    fn functions(&self) -> &Pkcs11 {
        &self.module.functions
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: no pointers. A refusal has no one to hear it here; C_Finalize closes what is left.
        let _code = unsafe { self.functions().C_CloseSession(self.handle) };
    }
}
