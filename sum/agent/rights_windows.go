package agent

import (
	"io/fs"
	"unsafe"

	"golang.org/x/sys/windows"
)

// me is the user of this process.
func me() (*windows.SID, error) {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, err
	}
	return u.User.Sid, nil
}

// isMine reports whether an owner is this user, the system or the administrators, who
// can do everything anyway.
func isMine(owner *windows.SID) bool {
	if owner == nil {
		return false
	}
	if owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.IsWellKnown(windows.WinLocalSystemSid) {
		return true
	}
	sid, err := me()
	return err == nil && owner.Equals(sid)
}

// ownedByMe reports whether a file belongs to this user, the system or the
// administrators.
func ownedByMe(name string, _ fs.FileInfo) bool {
	sd, err := windows.GetNamedSecurityInfo(name, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return false
	}
	owner, _, err := sd.Owner()
	return err == nil && isMine(owner)
}

// privateSDDL lets this user, the system and the administrators in, with what is
// inherited by files and directories, if any, and nobody else. Nothing of it comes
// from a directory above (P).
func privateSDDL(inherit string) (string, error) {
	sid, err := me()
	if err != nil {
		return "", err
	}
	sddl := "D:P"
	for _, who := range []string{"SY", "BA", sid.String()} {
		sddl += "(A;" + inherit + ";GA;;;" + who + ")"
	}
	return sddl, nil
}

// keepOthersOut makes a directory one that only this user, the system and the
// administrators can enter, and so all that is in it.
func keepOthersOut(dir string) error {
	sddl, err := privateSDDL("OICI")
	if err != nil {
		return err
	}
	sd, err := windows.SecurityDescriptorFromString(sddl)
	if err != nil {
		return err
	}
	dacl, _, err := sd.DACL()
	if err != nil {
		return err
	}
	err = windows.SetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, dacl, nil)
	if err != nil {
		return &fs.PathError{Op: "SetNamedSecurityInfo", Path: dir, Err: err}
	}
	return nil
}

// keepsOthersOut reports whether a directory is such a one: whether its list of rights
// gives them to nobody else.
func keepsOthersOut(dir string, _ fs.FileInfo) bool {
	sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return false
	}
	dacl, _, err := sd.DACL()
	if err != nil || dacl == nil { // no list lets everybody in
		return false
	}
	for i := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, i, &ace); err != nil {
			return false
		}
		if ace.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE {
			continue // who is denied something is kept out
		}
		if ace.Mask != 0 && !isMine(aceSID(ace)) {
			return false
		}
	}
	return true
}

// aceSID is whom an entry of a list of rights is about.
func aceSID(ace *windows.ACCESS_ALLOWED_ACE) *windows.SID {
	return (*windows.SID)(unsafe.Pointer(&ace.SidStart))
}

// attributes are the rights to an object of the system by which processes of ours find
// each other.
func attributes() (*windows.SecurityAttributes, error) {
	sddl, err := privateSDDL("")
	if err != nil {
		return nil, err
	}
	sd, err := windows.SecurityDescriptorFromString(sddl)
	if err != nil {
		return nil, err
	}
	return &windows.SecurityAttributes{Length: uint32(unsafe.Sizeof(windows.SecurityAttributes{})), SecurityDescriptor: sd}, nil
}
