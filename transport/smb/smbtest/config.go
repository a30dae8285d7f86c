package smbtest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Config describes a server. The zero value makes one that demands signing.
type Config struct {
	// User is the only account, an administrator unless Ordinary is set; "" means
	// "ops". Its name is matched without regard to case.
	User string
	// Password of User; "" means a random one.
	Password string
	// Ordinary makes User no administrator, or one whose rights are filtered by user
	// account control: ADMIN$ is refused with STATUS_ACCESS_DENIED (0xC0000022), and
	// so is the right to create services (ERROR_ACCESS_DENIED).
	Ordinary bool
	// Domain is the workgroup; "" means "LAB". User may log in as one of the domain, and
	// as User@Domain or User@Domain.example, the form that a realm of Kerberos has.
	Domain string

	// Signing is "mandatory" or "optional"; "" means "mandatory".
	Signing string
	// Encryption refuses clients that do not encrypt, which takes SMB 3.0 or
	// later (STATUS_NOT_SUPPORTED or STATUS_ACCESS_DENIED for the others).
	Encryption bool
	// MinProtocol and MaxProtocol bound the dialects: "SMB2_02", "SMB2_10",
	// "SMB3_00", "SMB3_02" or "SMB3_11"; "" means SMB2_02 and SMB3_11.
	MinProtocol, MaxProtocol string

	// NetBIOS makes Addr a NetBIOS session service (RFC 1002, 4.3), as port 139
	// is: a caller that does not begin with a session request for *SMBSERVER or
	// for [Server.Name] is turned away.
	NetBIOS bool
	// IPv6 makes the server listen on [::1] instead of 127.0.0.1.
	IPv6 bool

	// DFS adds the share "dfs", the root of a namespace of DFS (MS-DFSC) on this server:
	// its directory "elsewhere" is on another one, of which a client that follows no
	// referrals is told (STATUS_PATH_NOT_COVERED, 0xC0000257).
	DFS bool

	// Services is what the service control manager knows; nil means a new one
	// without services. It serves one server at a time, and Close stops what runs.
	Services *Services

	// Windows is a directory of this machine that is to be behind ADMIN$, such as
	// C:\Windows of a prefix of Wine; "" means an empty one of the server's own.
	// Close leaves it alone.
	Windows string
}

// protocols are the dialects in the words of smb.conf(5), oldest first.
var protocols = []string{"SMB2_02", "SMB2_10", "SMB3_00", "SMB3_02", "SMB3_11"}

func (c Config) withDefaults() (Config, error) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.User, "ops")
	set(&c.Password, rand.Text())
	set(&c.Domain, "LAB")
	set(&c.Signing, "mandatory")
	set(&c.MinProtocol, protocols[0])
	set(&c.MaxProtocol, protocols[len(protocols)-1])
	if c.Services == nil {
		c.Services = new(Services)
	}
	if c.Signing != "mandatory" && c.Signing != "optional" {
		return c, fmt.Errorf("smbtest: Signing is %q, not mandatory or optional", c.Signing)
	}
	least, most := slices.Index(protocols, c.MinProtocol), slices.Index(protocols, c.MaxProtocol)
	if least < 0 || most < least {
		return c, fmt.Errorf("smbtest: no dialects from %q to %q; known are %s", c.MinProtocol, c.MaxProtocol, strings.Join(protocols, ", "))
	}
	if strings.ContainsAny(c.Windows, "\r\n\x00%") || c.Windows != "" && !filepath.IsAbs(c.Windows) {
		return c, fmt.Errorf("smbtest: Windows is %q, not a plain absolute path", c.Windows)
	}
	// They end up in files of Samba's, in lines and between separators.
	if strings.ContainsAny(c.User+c.Domain, "\r\n\x00=%!*@+&\"\\/:;#, ") {
		return c, errors.New("smbtest: User and Domain must be plain names")
	}
	return c, nil
}

// name is the server's NetBIOS name.
const name = "LABSERVER"

// conf returns the smb.conf of a server that keeps everything in dir.
func (c Config) conf(dir string, port int) string {
	signing, encrypt := "mandatory", "default"
	if c.Signing == "optional" {
		signing = "auto"
	}
	if c.Encryption {
		encrypt = "required"
	}
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, value) }
	b.WriteString("[global]\n")
	line("workgroup", c.Domain)
	line("netbios name", name)
	line("server role", "standalone server")
	for key, sub := range map[string]string{
		"private dir": "private", "lock directory": "lock", "state directory": "state", "cache directory": "cache",
		"pid directory": "pid", "ncalrpc dir": "rpc", "winbindd socket directory": "none", "usershare path": "none",
		"username map": "users", "log file": "log/smbd",
	} {
		line(key, dir+"/"+sub)
	}
	line("passdb backend", "smbpasswd:"+dir+"/private/passwd")
	line("usershare max shares", "0")
	line("logging", "file")
	line("log level", "1")
	line("max log size", "0")

	line("smb ports", fmt.Sprint(port))
	line("interfaces", c.loopback())
	line("bind interfaces only", "yes")
	line("disable netbios", "yes") // nmbd and port 139; session requests are understood anyway
	line("multicast dns register", "no")
	line("server signing", signing)
	line("server smb encrypt", encrypt)
	line("server min protocol", c.MinProtocol)
	line("server max protocol", c.MaxProtocol)
	line("rpc start on demand helpers", "no") // or it would take the sockets of our pipes

	line("load printers", "no")
	line("printing", "bsd")
	line("printcap name", "/dev/null")
	line("disable spoolss", "yes")
	line("unix extensions", "no")
	// Hold must not have to wait for another client to give something up.
	line("oplocks", "no")
	line("kernel oplocks", "no")
	line("nt acl support", "no")
	// Of the attributes only READONLY is kept, as the owner's right to write:
	// others need extended attributes, which not every file system has.
	line("store dos attributes", "no")
	line("map archive", "no")
	line("map readonly", "yes")
	line("create mask", "0755")
	for _, s := range c.shares() {
		fmt.Fprintf(&b, "[%s]\n", s.name)
		if s.dfs {
			line("msdfs root", "yes")
		}
		line("path", c.path(dir, s))
		line("read only", map[bool]string{true: "yes", false: "no"}[s.readOnly])
		if s.admin {
			line("valid users", "root")
		}
		line("force user", "root") // whose the directory is
	}
	return b.String()
}

func (c Config) loopback() string {
	if c.IPv6 {
		return "::1"
	}
	return "127.0.0.1"
}

type share struct {
	name, dir string
	native    string // where it would lie on Windows
	readOnly  bool
	admin     bool // for administrators only
	dfs       bool // a root of DFS
}

// path is the directory behind a share of a server that keeps everything in dir.
func (c Config) path(dir string, s share) string {
	if s.admin && c.Windows != "" {
		return c.Windows
	}
	return filepath.Join(dir, filepath.FromSlash(s.dir))
}

// shares are the shares beside IPC$.
func (c Config) shares() []share {
	return slices.DeleteFunc([]share{
		{name: "ADMIN$", dir: "shares/admin", native: `C:\Windows`, admin: true},
		{name: "files", dir: "shares/files", native: `D:\files`},
		{name: "ro", dir: "shares/ro", native: `D:\ro`, readOnly: true},
		{name: "dfs", dir: "shares/dfs", native: `D:\dfs`, dfs: true},
	}, func(s share) bool { return s.dfs && !c.DFS })
}

// account is the account of this machine that User is mapped to.
func (c Config) account() string {
	if c.Ordinary {
		return "daemon"
	}
	return "root"
}
