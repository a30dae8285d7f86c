package agent

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// isMine reports whether an owner is this user, the system, the administrators or one of
// those, who can do everything anyway.
func isMine(owner *windows.SID) bool {
	if owner == nil {
		return false
	}
	if owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) || owner.IsWellKnown(windows.WinLocalSystemSid) {
		return true
	}
	sid, err := me()
	return err == nil && owner.Equals(sid) || isAdministrator(owner)
}

// isAdministrator reports whether an account, also one of a domain, is known to be an
// administrator of this host: what an administrator makes over SMB may be his own, and not
// the group's.
func isAdministrator(sid *windows.SID) bool {
	account, domain, kind, err := sid.LookupAccount("")
	if err != nil || kind != windows.SidTypeUser {
		return false
	}
	administrators, err := windows.CreateWellKnownSid(windows.WinBuiltinAdministratorsSid)
	if err != nil {
		return false
	}
	group, _, _, err := administrators.LookupAccount("") // in the language of the host
	if err != nil {
		return false
	}
	groups, err := localGroups(domain + `\` + account)
	return err == nil && slices.Contains(groups, group)
}

// localGroups are the groups of this host in which a user is, by himself or by other groups
// (NetUserGetLocalGroups).
func localGroups(user string) ([]string, error) {
	const (
		indirect = 1 // LG_INCLUDE_INDIRECT
		all      = 0xFFFFFFFF
	)
	name, err := windows.UTF16PtrFromString(user)
	if err != nil {
		return nil, err
	}
	proc := windows.NewLazySystemDLL("netapi32.dll").NewProc("NetUserGetLocalGroups")
	if err := proc.Find(); err != nil {
		return nil, err
	}
	var list **uint16 // LOCALGROUP_USERS_INFO_0
	var read, total uint32
	code, _, _ := proc.Call(0, uintptr(unsafe.Pointer(name)), 0, indirect, uintptr(unsafe.Pointer(&list)), all,
		uintptr(unsafe.Pointer(&read)), uintptr(unsafe.Pointer(&total)))
	if list != nil {
		defer windows.NetApiBufferFree((*byte)(unsafe.Pointer(list)))
	}
	if code != 0 {
		return nil, os.NewSyscallError("NetUserGetLocalGroups", windows.Errno(code))
	}
	var groups []string
	if list != nil {
		for _, p := range unsafe.Slice(list, read) {
			groups = append(groups, windows.UTF16PtrToString(p))
		}
	}
	return groups, nil
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

// trustedInstaller is the service that owns what belongs to Windows itself, and can do
// everything (NT SERVICE\TrustedInstaller).
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// Rights to directories (winnt.h) by which somebody can put something there, or what he
// likes in the place of the directory.
const (
	deleteChild = 0x40 // FILE_DELETE_CHILD
	mayExchange = windows.DELETE | windows.WRITE_DAC | windows.WRITE_OWNER | windows.GENERIC_ALL | deleteChild
	mayWrite    = mayExchange | windows.GENERIC_WRITE | windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | windows.FILE_WRITE_EA
)

// checkRights refuses a directory if anybody but this user, the system and administrators
// may put something there, or into the one above, which agents of this host share, or may
// exchange one of those that lead there.
func (h home) checkRights() error {
	dir := string(h)
	for n, what := 0, windows.ACCESS_MASK(mayWrite); ; n++ {
		if n == 2 {
			what = mayExchange
		}
		sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
		if err != nil {
			return &fs.PathError{Op: "GetNamedSecurityInfo", Path: dir, Err: err}
		}
		if who := otherWho(sd, what, n < 2); who != "" {
			return fmt.Errorf("%s %w: %s can change %s; take that right away, or remove what is there", h, errNotOurs, who, dir)
		}
		above := filepath.Dir(dir)
		if above == dir {
			return nil
		}
		dir = above
	}
}

// otherWho names somebody who is not trusted and owns something or has one of the rights to
// it, or with heirs gets it to what is made there; it is "" where there is nobody. What an entry denies is no matter:
// somebody else may be allowed it.
func otherWho(sd *windows.SECURITY_DESCRIPTOR, rights windows.ACCESS_MASK, heirs bool) string {
	trusted := func(sid *windows.SID) bool { return isMine(sid) || sid != nil && sid.String() == trustedInstaller }
	owner, _, err := sd.Owner()
	if err != nil || !trusted(owner) {
		return "its owner " + nameOf(owner)
	}
	dacl, _, err := sd.DACL()
	if err != nil || dacl == nil { // no list lets everybody in
		return "everybody"
	}
	for i := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, i, &ace); err != nil {
			return "somebody"
		}
		switch ace.Header.AceType {
		case windows.ACCESS_DENIED_ACE_TYPE:
			continue
		case windows.ACCESS_ALLOWED_ACE_TYPE:
		default: // with a condition, say, or for a kind of object
			if ace.Mask&rights != 0 {
				return "somebody"
			}
			continue
		}
		onlyHeirs := ace.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0
		if ace.Mask&rights == 0 || onlyHeirs && !heirs {
			continue
		}
		sid := aceSID(ace)
		// Who may not make anything here inherits nothing as its creator.
		if onlyHeirs && (sid.IsWellKnown(windows.WinCreatorOwnerSid) || sid.IsWellKnown(windows.WinCreatorGroupSid)) {
			continue
		}
		if !trusted(sid) {
			return nameOf(sid)
		}
	}
	return ""
}

// nameOf is how people call an account.
func nameOf(sid *windows.SID) string {
	if sid == nil {
		return "nobody"
	}
	if account, domain, _, err := sid.LookupAccount(""); err == nil {
		return strings.TrimPrefix(domain+`\`+account, `\`)
	}
	return sid.String()
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
