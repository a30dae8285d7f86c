package agenttest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
)

// A Host is a machine behind a connection. It is made by [Installer.Host] and is
// safe for concurrent use.
type Host struct {
	in   *Installer
	name string

	// All below is guarded by in.mu.
	identity  transport.Identity
	devices   []transport.Device
	software  []transport.Software
	problems  []transport.Problem
	notes     []transport.Problem
	scripts   map[string]func(agent.Job) Job
	faults    []*armed
	calls     map[Op]int
	places    map[string]*place // by ID
	boots     int
	connBoot  string // the BootID that connections showed last
	onReboot  func()
	atBoot    []func(*Machine)
	rebootMsg []string
	callback  []string // see Callback
	moves     int
	facts     *agent.Facts // nil: the usual ones
	reached   func(netip.AddrPort) agent.Reached
}

// SetIdentity sets the Identity of the inventory. Without it the connection's is
// taken.
func (h *Host) SetIdentity(id transport.Identity) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.identity = id
}

// SetDevices sets the devices of the inventory.
func (h *Host) SetDevices(d ...transport.Device) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.devices = slices.Clone(d)
}

// SetSoftware sets the software of the inventory. What has the Source
// agent.ProbeSource is reported only to those who probe for it by its name.
func (h *Host) SetSoftware(s ...transport.Software) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.software = slices.Clone(s)
}

// SetNotes sets the notes of the inventory, such as those of probes that found
// nothing installed.
func (h *Host) SetNotes(n ...transport.Problem) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.notes = slices.Clone(n)
}

// SetProblems sets the problems of the inventory.
func (h *Host) SetProblems(p ...transport.Problem) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.problems = slices.Clone(p)
}

// Version returns the version of the named software, or "".
func (h *Host) Version(software string) string {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	return (&Machine{h}).Version(software)
}

// OnInstall says what jobs of the component do from now on.
func (h *Host) OnInstall(component string, j Job) {
	h.OnInstallFunc(component, func(agent.Job) Job { return j })
}

// OnInstallFunc lets f say what each job of the component does. f must not call
// the Host or the Installer.
func (h *Host) OnInstallFunc(component string, f func(agent.Job) Job) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.scripts[component] = f
}

// Runs returns how many times a program of the component was started. A job that
// is asked for again under its ID does not count again.
func (h *Host) Runs(component string) int {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	n := 0
	for _, p := range h.places {
		for _, j := range p.jobs {
			if j.spec.Component == component {
				n += j.starts
			}
		}
	}
	return n
}

// JobSpecs returns every job that was accepted, in order.
func (h *Host) JobSpecs() []agent.Job {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	var out []agent.Job
	for _, id := range slices.Sorted(maps.Keys(h.places)) {
		p := h.places[id]
		for _, jid := range p.order {
			out = append(out, cloneJob(p.jobs[jid].spec))
		}
	}
	return out
}

// Calls returns how many calls of op reached the host; AnyOp gives the sum.
func (h *Host) Calls(op Op) int {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if op != AnyOp {
		return h.calls[op]
	}
	n := 0
	for _, c := range h.calls {
		n += c
	}
	return n
}

// StagedBytes returns how many bytes all Stage calls have sent.
func (h *Host) StagedBytes() int64 {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	var n int64
	for _, p := range h.places {
		n += p.received
	}
	return n
}

// KillAgent ends the agents of the host as SIGKILL does: files stay, and jobs go
// on.
func (h *Host) KillAgent() {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	for _, p := range h.places {
		p.die()
	}
}

// ExpireLease lets the lease of every agent run out: those without a running job
// remove themselves.
func (h *Host) ExpireLease() {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	for _, p := range h.places {
		if p.runningJob() == "" {
			p.remove()
		}
	}
}

// Reboot restarts the host: agents end, jobs that had not ended are
// Interrupted, and what jobs left to the next boot takes effect.
func (h *Host) Reboot() {
	h.in.mu.Lock()
	f := h.reboot()
	h.in.mu.Unlock()
	if f != nil {
		f()
	}
}

// OnReboot sets a function that is called after the host was rebooted by an
// agent or by Reboot, for instance to let a fake connection reboot with it.
func (h *Host) OnReboot(f func()) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	h.onReboot = f
}

// RebootMessages returns the messages of the reboots that agents were asked for.
func (h *Host) RebootMessages() []string {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	return slices.Clone(h.rebootMsg)
}

func (h *Host) reboot() func() {
	h.boots++
	for _, p := range h.places {
		p.die()
		for _, j := range p.jobs {
			if !j.state.Final() && j.state != agent.Accepted {
				j.end(agent.Interrupted, nil)
			}
		}
	}
	m := &Machine{h}
	for _, f := range h.atBoot {
		f(m)
	}
	h.atBoot = nil
	return h.onReboot
}

// bootID is what the host reports. A connection that shows one is believed, so
// that both tell the same.
func (h *Host) bootID() string {
	if h.connBoot != "" {
		return h.connBoot
	}
	return fmt.Sprintf("boot-%d-of-%s", h.boots+1, h.name)
}

// Left returns everything on the host that must not stay there, as readable
// lines: agents that run, and files that are not logs.
func (h *Host) Left() []string {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	var out []string
	for _, id := range slices.Sorted(maps.Keys(h.places)) {
		p := h.places[id]
		if p.running {
			out = append(out, h.name+": agent runs in "+p.dir)
		}
		if p.files {
			out = append(out, h.name+":"+p.dir+"/roundsman-agent")
		}
		for _, d := range slices.Sorted(maps.Keys(p.blobs)) {
			out = append(out, h.name+":"+p.dir+"/blobs/"+d)
		}
		for _, jid := range p.order {
			if j := p.jobs[jid]; j.state == agent.Running || j.state == agent.Accepted && p.files {
				out = append(out, h.name+":"+p.dir+"/jobs/"+jid+"/")
			}
		}
	}
	return out
}

// Machine is what a job, or a boot after it, changes. It may be used only until
// the function that it was given to returns.
type Machine struct{ h *Host }

// Version returns the version of the named software, or "".
func (m *Machine) Version(software string) string {
	for _, s := range m.h.software {
		if s.Name == software {
			return s.Version
		}
	}
	return ""
}

// SetVersion sets the version of software; "" removes it. Software that is not
// there yet is added with the given source, such as "dpkg".
func (m *Machine) SetVersion(software, version, source string) {
	for i, s := range m.h.software {
		if s.Name != software {
			continue
		}
		if version == "" {
			m.h.software = slices.Delete(m.h.software, i, i+1)
		} else {
			m.h.software[i].Version = version
		}
		return
	}
	if version != "" {
		m.h.software = append(m.h.software, transport.Software{Name: software, Version: version, Source: source})
	}
}

// SetFirmware sets the firmware version of the device with this ID and reports
// whether there is one.
func (m *Machine) SetFirmware(deviceID, version string) bool {
	for i := range m.h.devices {
		if m.h.devices[i].ID == deviceID {
			m.h.devices[i].Firmware = version
			return true
		}
	}
	return false
}
