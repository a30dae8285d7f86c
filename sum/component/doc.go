// Package component describes what can be installed: a file or a set of files,
// the command that installs them, and what of a target they change.
//
//	c, err := component.Load(ctx, "hello_2.10-3_amd64.deb")
//	...
//	for _, f := range c.Current(inv) {
//		n, err := c.Compare(f.Version) // > 0: the component is newer
//	}
//	job := c.Job(channel.NewJobID(), component.JobOptions{})
//
// [Load] takes a .deb, an .rpm or a .fwpkg as it is, told by its content and not its
// name, a component.json, or a directory with one. A [Component] may also be written in
// Go. Payload files stay on disk; loading reads them once for their digests.
//
// # Firmware packages
//
// A .fwpkg is for targets that Redfish is spoken with, but for a Superdome Flex, which takes
// the bundle of the complex alone. It says itself which devices it is for, by HPE's class and targets, what it brings them to, which version must be there
// already, who can apply it and what makes it take effect. Devices are found by "hpe-target:"
// and "hpe-class:" among the hardware IDs of the inventory, or by "software-id:" where a
// service tells a target so. One that has several versions in it, or none, takes a
// component.json.
//
// A signature (.compsig) belongs to the file of the same name beside it, and
// NAME_part1.compsig to its first section: they are loaded with that file, where the
// component is for devices, and are no components themselves.
//
// # component.json
//
// One JSON object of at most 1 MiB. Fields that are not listed here, fields
// given twice and anything after the object are refused.
//
//	name             string, required. Printable, at most 128 bytes.
//	version          string, required. In a form that the scheme knows.
//	scheme           "deb", "rpm", "numeric" or "hpe", required. See package version.
//	description      string. For people.
//	kinds            list of kinds of target: "windows", "linux", "local" (the manager's
//	                 own host, which these do not stand for), "vmware", "oa", "superdome-x",
//	                 "superdome-flex", "ilo", "vc", "fc-switch", "sas-switch", "integrity".
//	                 Empty: any. With "windows" names that Windows takes for something
//	                 else, such as nul or con.exe, are refused.
//	package          {"source": "dpkg"|"rpm"|"msi"|"uninstall"|"program"|"inf",
//	                 "name": ..., "arch": ...}; see below
//	device           {"class": ..., "hardware_ids": [...], "part": "firmware"|"driver",
//	                 "device_class": ...}
//	minimum_version  string: what must be there already. An older version takes another
//	                 component in between, which a plan puts before if it is given.
//	probe            {"argv": [...], "timeout_seconds": n}; see below
//	files            list of {"name", "sha256", "size", "executable"}. Names are
//	                 clean slash-separated paths below the directory of
//	                 component.json; sha256 and size are verified where given.
//	install          list: program and arguments. Required unless kinds names only
//	                 devices that update themselves, or the only file is a .deb or
//	                 .rpm: then it is installed as it would be without component.json,
//	                 and profile, rewrite_args and downgrade_args are left out, too.
//	rewrite_args     list: what "{force}" stands for to install the same version again
//	downgrade_args   list: what "{force}" stands for to install an older version
//	profile          how the exit status is understood: "zero-ok", "deb", "rpm", "msi",
//	                 "hpe-linux", "hpe-linux-multi", "hpe-windows", "inf", "dell-dup", or ""
//	                 if zero proves nothing. See [agent.Profile].
//	timeout_seconds  number; 0 or absent: no limit
//	no_kill          true: a timeout or cancel is recorded, and never enforced
//	suspend_bitlocker
//	                 true: on Windows BitLocker of the drive of Windows is suspended until the
//	                 host has been started once, before the program begins, as for firmware
//	                 that the TPM measures. Where that fails the program is not started.
//	env              list of NAME=value, for names that [agent.Environment] accepts
//	activation       what makes it take effect: "", "reset", "reboot", "power-cycle"
//
// At most one of package, device and probe says what the component changes, and
// so how its version is read before and after. A package manager only knows that
// its package is there. HPE's packages of firmware only lay out a setup program:
// such an .rpm is installed, and the program run, but the version of the package
// is not that of a device. It takes a component.json with the device, or a probe,
// to prove that the device reports the version. With none of the three nothing
// can be compared or proven, and the outcome is Unverified.
//
// On Windows a package is one of Windows Installer ("msi") by its ProductCode, as in
// "{90160000-008C-0000-1000-0000000FF1CE}", of another installer ("uninstall") by the name
// of its key below Software\Microsoft\Windows\CurrentVersion\Uninstall, either of them by the name
// that it shows ("program"), or a driver package of the driver store ("inf") by its INF
// file. Upper and lower case are the same. Most makers give each version a ProductCode of
// its own: the one that is to be installed is then absent before it is, and the name that
// it shows tells more, if that has no version in it. Their versions follow the scheme
// "numeric", as a rule; arch is "386" or the system's own, such as "amd64".
//
// One for Windows Installer, which is understood by the codes that that ends with:
//
//	{
//	  "name": "Smart Storage tools", "version": "6.15.11.0", "scheme": "numeric",
//	  "kinds": ["windows"],
//	  "package": {"source": "program", "name": "Smart Storage Administrator CLI"},
//	  "files": [{"name": "ssacli.msi"}],
//	  "install": ["msiexec.exe", "/i", "{dir}/ssacli.msi", "/qn", "/norestart", "{force}"],
//	  "rewrite_args": ["REINSTALL=ALL", "REINSTALLMODE=vomus"],
//	  "profile": "msi"
//	}
//
// A probe is a program of the target that prints the version: the first line with
// something on it, trimmed. One that is not there, ends with a status other than 0
// or prints nothing says that nothing is installed. One that cannot be executed, is
// ended by a signal or does not end in time says nothing: the component is then left
// alone. A line that the scheme cannot read as a version is one that cannot be
// compared, and not "not installed". If after the installation the probe does not
// prove the version, the outcome is Unverified, and its text has the probe's command,
// how it ended, and its first line.
//
// A device matches when its class is the given one and it has one of the
// hardware IDs, whatever their case: "pci:8086:1572:103c:22fd", "pci:8086:1572",
// "model:MO000400JWDKU" for disks, "product:ProLiant DL380 Gen10" for a BIOS. One that the
// inventory has a class of HPE's for must be of device_class, if that is given.
//
// # Arguments
//
// No shell reads the command. It runs in a private directory that holds the
// files; a program that begins with "./" is one of them. Two arguments are
// replaced where they stand alone: "{dir}" by that directory, on the target, and
// "{force}" by rewrite_args, by downgrade_args, by both or by nothing, as the
// plan asks. A command without "{force}" is the same for all cases. On Windows an argument
// that begins with "{dir}" is a path and has backslashes throughout, and msiexec.exe, which
// reads its command line as no other program does, gets the values of its properties in the
// quotes that it wants: "INSTALLDIR=C:\\Program Files\\x" is written without any of its own.
package component
