//! A PKCS#11 module, loaded as an application loads it, for black-box tests and measurements.
//!
//! [`module`] is the only place here that calls C. It knows nothing of this product: any module can be loaded. Our own
//! binaries of `testing/` use it; nothing else does.

#[expect(unsafe_code, reason = "the C interface of PKCS#11 is called here and nowhere else")]
pub mod module;
