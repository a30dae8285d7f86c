package smb

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/roundsman-go/roundsman/transport"
)

// The NTSTATUS values (MS-ERREF, section 2.3.1) that are treated as more than a failure.
const (
	statusPending        = 0x00000103
	statusLogonFailure   = 0xC000006D
	statusBufferOverflow = 0x80000005
	statusMoreProcessing = 0xC0000016
	statusEndOfFile      = 0xC0000011
	statusSharing        = 0xC0000043
	statusDeletePending  = 0xC0000056
	statusPipeBusy       = 0xC00000AE
	statusPipeNone       = 0xC00000AC // STATUS_PIPE_NOT_AVAILABLE: all instances are taken
	statusPipeBroken     = 0xC000014B
	statusPipeClosing    = 0xC00000B1
	statusPipeGone       = 0xC00000B0 // STATUS_PIPE_DISCONNECTED
	statusCannotDelete   = 0xC0000121
	statusUserMapped     = 0xC0000243 // STATUS_USER_MAPPED_FILE
	statusAccessDenied   = 0xC0000022
	statusNameNotFound   = 0xC0000034 // STATUS_OBJECT_NAME_NOT_FOUND
	statusPathNotFound   = 0xC000003A // STATUS_OBJECT_PATH_NOT_FOUND
	statusCollision      = 0xC0000035 // STATUS_OBJECT_NAME_COLLISION
	statusCancelled      = 0xC0000120
	statusNameDeleted    = 0xC00000C9 // STATUS_NETWORK_NAME_DELETED
	statusSessionDeleted = 0xC0000203 // STATUS_USER_SESSION_DELETED
	statusSessionExpired = 0xC000035C // STATUS_NETWORK_SESSION_EXPIRED
	statusNotEmpty       = 0xC0000101
)

// meaning is what a code means here: its name in the documents of Microsoft, the class
// of failure, and what can be done.
type meaning struct {
	name string
	kind error
	hint string
}

const (
	hintFilter = "the account may log in but has no administrator's rights over the network: a local administrator other than the built-in one " +
		"is filtered by UAC; use a domain administrator or the built-in Administrator, or have the owner of the host set LocalAccountTokenFilterPolicy"
	// Samba says so where anything of a login or of a share cannot be had, too, as under load.
	hintResources = "the host is short of memory, or of something else that it gives back; try again later"
	hintScanner   = "the host's virus scanner has stopped the program, and may have removed it; have it allowed by its hash or signature"
	hintPolicy    = "the host's policy for applications does not let the program run; have it allowed by its hash, or by who signed it"
	hintInUse     = "somebody has the file open, or it runs; end that, or try again later"
	hintPassword  = "check the password, and which account is meant: LAB;user is one of the domain LAB, HOST;user one of the host itself, by the name of the host"
	hintLocked    = "it is locked after too many wrong passwords, and each further one keeps it so: have who looks after it unlock it, and find out what still uses an " +
		"old password; or give another account (LAB;user for one of the domain LAB, HOST;user for one of the host itself)"
	hintAccount = "ask who looks after the account, or give another one (LAB;user); trying again with the same credentials changes nothing"
	hintShare   = "the share is not there: administrative shares can be switched off (AutoShareServer, AutoShareWks), and ADMIN$ needs file sharing to be on"
)

var ntMeanings = map[uint32]meaning{
	statusLogonFailure:   {"STATUS_LOGON_FAILURE", transport.ErrAuth, hintPassword},
	0xC000006A:           {"STATUS_WRONG_PASSWORD", transport.ErrAuth, hintPassword},
	0xC0000064:           {"STATUS_NO_SUCH_USER", transport.ErrAuth, hintPassword},
	0xC000006E:           {"STATUS_ACCOUNT_RESTRICTION", transport.ErrAuth, "the account may not be used over the network: an empty password, hours or workstations that are not allowed, or Protected Users, who have no NTLM"},
	0xC000006F:           {"STATUS_INVALID_LOGON_HOURS", transport.ErrAuth, hintAccount},
	0xC0000070:           {"STATUS_INVALID_WORKSTATION", transport.ErrAuth, hintAccount},
	0xC0000071:           {"STATUS_PASSWORD_EXPIRED", transport.ErrAuth, hintAccount},
	0xC0000072:           {"STATUS_ACCOUNT_DISABLED", transport.ErrAuth, hintAccount},
	0xC0000193:           {"STATUS_ACCOUNT_EXPIRED", transport.ErrAuth, hintAccount},
	0xC0000224:           {"STATUS_PASSWORD_MUST_CHANGE", transport.ErrAuth, hintAccount},
	0xC0000234:           {"STATUS_ACCOUNT_LOCKED_OUT", transport.ErrAuth, hintLocked},
	0xC000015B:           {"STATUS_LOGON_TYPE_NOT_GRANTED", transport.ErrAuth, "the host does not grant this account the right to log in over the network"},
	0xC0000418:           {"STATUS_NTLM_BLOCKED", transport.ErrAuth, "the host or its domain allows no NTLM, and this driver has no Kerberos"},
	0xC000005E:           {"STATUS_NO_LOGON_SERVERS", transport.ErrBusy, "the host finds no domain controller"},
	0xC000018D:           {"STATUS_TRUSTED_RELATIONSHIP_FAILURE", transport.ErrAuth, hintAccount},
	statusAccessDenied:   {"STATUS_ACCESS_DENIED", fs.ErrPermission, ""},
	0xC00000CC:           {"STATUS_BAD_NETWORK_NAME", fs.ErrNotExist, hintShare},
	0xC00000CB:           {"STATUS_BAD_DEVICE_TYPE", transport.ErrRejected, ""},
	0xC00000BB:           {"STATUS_NOT_SUPPORTED", errors.ErrUnsupported, "the server wants another dialect; see Options.Dialect"},
	statusNameNotFound:   {"STATUS_OBJECT_NAME_NOT_FOUND", fs.ErrNotExist, ""},
	statusPathNotFound:   {"STATUS_OBJECT_PATH_NOT_FOUND", fs.ErrNotExist, ""},
	0xC000000F:           {"STATUS_NO_SUCH_FILE", fs.ErrNotExist, ""},
	statusCollision:      {"STATUS_OBJECT_NAME_COLLISION", fs.ErrExist, ""},
	0xC0000033:           {"STATUS_OBJECT_NAME_INVALID", transport.ErrInvalid, "the file system of the target does not allow this name"},
	0xC0000039:           {"STATUS_OBJECT_PATH_INVALID", transport.ErrInvalid, "the file system of the target does not allow this name"},
	0xC000003B:           {"STATUS_OBJECT_PATH_SYNTAX_BAD", transport.ErrInvalid, "the file system of the target does not allow this name"},
	0xC00000BA:           {"STATUS_FILE_IS_A_DIRECTORY", transport.ErrRejected, ""},
	0xC0000103:           {"STATUS_NOT_A_DIRECTORY", transport.ErrRejected, ""},
	statusNotEmpty:       {"STATUS_DIRECTORY_NOT_EMPTY", fs.ErrExist, ""},
	statusSharing:        {"STATUS_SHARING_VIOLATION", transport.ErrBusy, hintInUse},
	statusUserMapped:     {"STATUS_USER_MAPPED_FILE", transport.ErrBusy, hintInUse},
	statusCannotDelete:   {"STATUS_CANNOT_DELETE", transport.ErrBusy, hintInUse},
	statusDeletePending:  {"STATUS_DELETE_PENDING", transport.ErrBusy, "the file goes as soon as the last that has it open closes it"},
	0xC0000054:           {"STATUS_FILE_LOCK_CONFLICT", transport.ErrBusy, hintInUse},
	0xC000007F:           {"STATUS_DISK_FULL", transport.ErrNoSpace, ""},
	0xC0000044:           {"STATUS_QUOTA_EXCEEDED", transport.ErrNoSpace, ""},
	0xC00000A2:           {"STATUS_MEDIA_WRITE_PROTECTED", fs.ErrPermission, ""},
	0xC0000017:           {"STATUS_NO_MEMORY", transport.ErrBusy, hintResources},
	0xC000009A:           {"STATUS_INSUFFICIENT_RESOURCES", transport.ErrBusy, hintResources},
	0xC0000205:           {"STATUS_INSUFF_SERVER_RESOURCES", transport.ErrBusy, hintResources},
	0xC000012D:           {"STATUS_COMMITMENT_LIMIT", transport.ErrBusy, hintResources},
	0xC0000906:           {"STATUS_VIRUS_INFECTED", transport.ErrRejected, hintScanner},
	0xC0000907:           {"STATUS_VIRUS_DELETED", transport.ErrRejected, hintScanner},
	0xC00000D0:           {"STATUS_REQUEST_NOT_ACCEPTED", transport.ErrBusy, "the server has as many sessions as it allows"},
	0xC00000B5:           {"STATUS_IO_TIMEOUT", transport.ErrTimeout, ""},
	0xC0000257:           {"STATUS_PATH_NOT_COVERED", errors.ErrUnsupported, "the path is in another place by DFS, which is not followed: give the server and share that hold it"},
	statusSessionDeleted: {"STATUS_USER_SESSION_DELETED", transport.ErrConnLost, ""},
	statusSessionExpired: {"STATUS_NETWORK_SESSION_EXPIRED", transport.ErrConnLost, ""},
	statusNameDeleted:    {"STATUS_NETWORK_NAME_DELETED", transport.ErrConnLost, ""},
	0xC000020C:           {"STATUS_CONNECTION_DISCONNECTED", transport.ErrConnLost, ""},
	statusPipeNone:       {"STATUS_PIPE_NOT_AVAILABLE", transport.ErrBusy, "every instance of the pipe is in use"},
	statusPipeBusy:       {"STATUS_PIPE_BUSY", transport.ErrBusy, ""},
	statusPipeBroken:     {"STATUS_PIPE_BROKEN", nil, ""},
	statusPipeClosing:    {"STATUS_PIPE_CLOSING", nil, ""},
	statusPipeGone:       {"STATUS_PIPE_DISCONNECTED", nil, ""},
	statusBufferOverflow: {"STATUS_BUFFER_OVERFLOW", transport.ErrProtocol, ""},
	0xC00000D8:           {"STATUS_CANT_WAIT", transport.ErrBusy, ""},
}

var winMeanings = map[uint32]meaning{ // MS-ERREF, section 2.2
	5:    {"ERROR_ACCESS_DENIED", fs.ErrPermission, hintFilter},
	6:    {"ERROR_INVALID_HANDLE", transport.ErrProtocol, ""},
	2:    {"ERROR_FILE_NOT_FOUND", transport.ErrRejected, "the program of the service is not there: copied and then quarantined, perhaps"},
	3:    {"ERROR_PATH_NOT_FOUND", transport.ErrRejected, ""},
	87:   {"ERROR_INVALID_PARAMETER", transport.ErrInvalid, ""},
	123:  {"ERROR_INVALID_NAME", transport.ErrInvalid, "names of services hold no slash, backslash, comma or blank, and at most 256 characters"},
	193:  {"ERROR_BAD_EXE_FORMAT", transport.ErrRejected, "the program is not for this kind of machine"},
	216:  {"ERROR_EXE_MACHINE_TYPE_MISMATCH", transport.ErrRejected, "the program is not for this kind of machine"},
	8:    {"ERROR_NOT_ENOUGH_MEMORY", transport.ErrBusy, hintResources},
	14:   {"ERROR_OUTOFMEMORY", transport.ErrBusy, hintResources},
	225:  {"ERROR_VIRUS_INFECTED", transport.ErrRejected, hintScanner},
	226:  {"ERROR_VIRUS_DELETED", transport.ErrRejected, hintScanner},
	577:  {"ERROR_INVALID_IMAGE_HASH", transport.ErrRejected, "the host checks signatures of programs, and does not accept that of this one, or there is none: use one that is signed, or have it allowed by its hash"},
	740:  {"ERROR_ELEVATION_REQUIRED", transport.ErrRejected, "the program asks for the rights of an administrator, which the account of the service does not have: have it run as LocalSystem"},
	1130: {"ERROR_NOT_ENOUGH_SERVER_MEMORY", transport.ErrBusy, hintResources},
	1450: {"ERROR_NO_SYSTEM_RESOURCES", transport.ErrBusy, hintResources},
	1051: {"ERROR_DEPENDENT_SERVICES_RUNNING", transport.ErrBusy, ""},
	1052: {"ERROR_INVALID_SERVICE_CONTROL", transport.ErrRejected, "the service takes no such order"},
	1053: {"ERROR_SERVICE_REQUEST_TIMEOUT", transport.ErrTimeout, "the program has not reported to the service control manager within 30 seconds: it may be held up by a virus scanner, or be no service"},
	1055: {"ERROR_SERVICE_DATABASE_LOCKED", transport.ErrBusy, "another service starts just now"},
	1056: {"ERROR_SERVICE_ALREADY_RUNNING", transport.ErrBusy, ""},
	1057: {"ERROR_INVALID_SERVICE_ACCOUNT", transport.ErrInvalid, ""},
	1058: {"ERROR_SERVICE_DISABLED", transport.ErrRejected, "the service is disabled"},
	1060: {"ERROR_SERVICE_DOES_NOT_EXIST", fs.ErrNotExist, ""},
	1061: {"ERROR_SERVICE_CANNOT_ACCEPT_CTRL", transport.ErrBusy, "the service starts or stops just now"},
	1062: {"ERROR_SERVICE_NOT_ACTIVE", nil, ""},
	1066: {"ERROR_SERVICE_SPECIFIC_ERROR", transport.ErrRejected, ""},
	1067: {"ERROR_PROCESS_ABORTED", transport.ErrRejected, "the program of the service ended at once"},
	1069: {"ERROR_SERVICE_LOGON_FAILED", transport.ErrRejected, ""},
	1072: {"ERROR_SERVICE_MARKED_FOR_DELETE", transport.ErrBusy, "it goes when whoever has it open closes it: often services.msc, or another manager"},
	1073: {"ERROR_SERVICE_EXISTS", fs.ErrExist, ""},
	1078: {"ERROR_DUPLICATE_SERVICE_NAME", fs.ErrExist, "another service has the same display name"},
	1018: {"ERROR_KEY_DELETED", fs.ErrNotExist, ""},
	1115: {"ERROR_SHUTDOWN_IN_PROGRESS", transport.ErrBusy, "the host shuts down"},
	1190: {"ERROR_SHUTDOWN_IS_SCHEDULED", transport.ErrBusy, "a shutdown is scheduled already"},
	1275: {"ERROR_DRIVER_BLOCKED", transport.ErrRejected, ""},
	1703: {"RPC_S_PROTSEQ_NOT_SUPPORTED", errors.ErrUnsupported, ""},
	1764: {"RPC_S_CANNOT_SUPPORT", errors.ErrUnsupported, ""},
	1260: {"ERROR_ACCESS_DISABLED_BY_POLICY", transport.ErrRejected, hintPolicy + " (AppLocker, software restriction policies)"},
	4550: {"ERROR_SYSTEM_INTEGRITY_ROLLBACK_DETECTED", transport.ErrRejected, hintPolicy + " (App Control for Business, which was WDAC)"},
	4551: {"ERROR_SYSTEM_INTEGRITY_POLICY_VIOLATION", transport.ErrRejected, hintPolicy + " (App Control for Business, which was WDAC)"},
}

// ntCode and winCode are codes as errors show them.
func ntCode(status uint32) transport.Code {
	return transport.Code{Space: "ntstatus", Value: fmt.Sprintf("0x%08X", status)}
}

func winCode(code uint32) transport.Code {
	return transport.Code{Space: "win32", Value: fmt.Sprint(code)}
}

// ntError explains an NTSTATUS.
func ntError(status uint32) *transport.Error { return meant(ntCode(status), ntMeanings[status]) }

// winError explains a Win32 error code.
func winError(code uint32) *transport.Error { return meant(winCode(code), winMeanings[code]) }

// hresultError explains an HRESULT: one of WMI (MS-WMI, section 2.2.11), or a Win32 code
// in it (MS-ERREF, section 2.1.2).
func hresultError(code uint32) *transport.Error {
	e := meant(transport.Code{Space: "hresult", Value: fmt.Sprintf("0x%08X", code)}, hresultMeanings[code])
	if m, ok := winMeanings[code&0xFFFF]; ok && code>>16 == 0x8007 {
		e.Kind, e.Hint, e.Err = m.kind, m.hint, errors.New(m.name)
	}
	if code == 0x80070005 { // E_ACCESSDENIED
		e.Hint = hintDCOM + "; " + hintFilter
	}
	return e
}

// Codes of WMI that are treated as more than a failure.
const (
	wbemNotFound     = 0x80041002
	wbemInvalidClass = 0x80041010
)

const hintDCOM = "the account needs remote launch and activation rights of DCOM, and remote rights on the namespace of WMI: those of an administrator"

var hresultMeanings = map[uint32]meaning{
	0x80041001:       {"WBEM_E_FAILED", transport.ErrRejected, ""},
	wbemNotFound:     {"WBEM_E_NOT_FOUND", fs.ErrNotExist, ""},
	0x80041003:       {"WBEM_E_ACCESS_DENIED", fs.ErrPermission, hintDCOM},
	0x80041006:       {"WBEM_E_OUT_OF_MEMORY", transport.ErrBusy, ""},
	0x8004100E:       {"WBEM_E_INVALID_NAMESPACE", errors.ErrUnsupported, ""},
	wbemInvalidClass: {"WBEM_E_INVALID_CLASS", errors.ErrUnsupported, "the host does not know this class of WMI"},
	0x80041017:       {"WBEM_E_INVALID_QUERY", errors.ErrUnsupported, ""},
	0x80041032:       {"WBEM_E_CALL_CANCELLED", transport.ErrBusy, ""},
	0x80041033:       {"WBEM_E_SHUTTING_DOWN", transport.ErrBusy, "the host shuts down"},
	0x80041068:       {"WBEM_E_SERVER_TOO_BUSY", transport.ErrBusy, ""},
	0x80040154:       {"REGDB_E_CLASSNOTREG", errors.ErrUnsupported, "the host has no WMI"},
	0x80080005:       {"CO_E_SERVER_EXEC_FAILURE", transport.ErrRejected, "the service Winmgmt does not start"},
}

// meant is the error for a code. Of one that is not known m has no name.
func meant(code transport.Code, m meaning) *transport.Error {
	e := &transport.Error{Kind: m.kind, Code: code, Hint: m.hint}
	if m.name == "" {
		e.Kind = transport.ErrRejected
	} else {
		e.Err = errors.New(m.name)
	}
	return e
}
