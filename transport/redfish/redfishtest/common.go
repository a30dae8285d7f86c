package redfishtest

import (
	"fmt"
	"net/http"
	"strings"
)

// systemID, managerID and chassisID are the names of the only system, manager and
// chassis.
func (p Profile) systemID() string {
	switch {
	case p == RMC:
		return "Partition1"
	case p.ilo() > 0:
		return "1"
	}
	return "system"
}

func (p Profile) managerID() string {
	switch {
	case p == RMC:
		return "RMC"
	case p.ilo() > 0:
		return "1"
	}
	return "bmc"
}

func (p Profile) chassisID() string {
	switch {
	case p == RMC:
		return "r001i01b"
	case p.ilo() > 0:
		return "1"
	}
	return "chassis"
}

func (s *Server) systemPath() string  { return "/redfish/v1/Systems/" + s.cfg.Profile.systemID() }
func (s *Server) managerPath() string { return "/redfish/v1/Managers/" + s.cfg.Profile.managerID() }
func (s *Server) chassisPath() string { return "/redfish/v1/Chassis/" + s.cfg.Profile.chassisID() }

const (
	updatePath    = "/redfish/v1/UpdateService"
	inventoryPath = updatePath + "/FirmwareInventory"
	// Serial is the serial number of the server, of every profile.
	Serial = "CZJ0RFTEST"
	uuid   = "30373237-3132-434d-3230-524654455354"
)

// version is the version of the i-th entry of the inventory. s.mu is held.
func (s *Server) version(i int) string {
	if i >= len(s.firmware) {
		return ""
	}
	return s.listed(s.firmware[i])
}

// commonTree adds what every profile has. s.mu is held.
func (s *Server) commonTree(t *tree) {
	if t.is("/redfish/v1") {
		s.rootTree(t)
	}
	if t.under("/redfish/v1/JsonSchemas") {
		t.collection("/redfish/v1/JsonSchemas", "JsonSchemaFileCollection", "Schemas")
	}
	if t.under("/redfish/v1/Registries") {
		t.collection("/redfish/v1/Registries", "MessageRegistryFileCollection", "Registries")
	}
	if t.under("/redfish/v1/SessionService") {
		s.sessionTree(t)
	}
	if t.under("/redfish/v1/AccountService") {
		s.accountTree(t)
	}
	if t.under("/redfish/v1/TaskService") {
		s.taskTree(t)
	}
	if t.under(eventPath) {
		s.eventTree(t)
	}
	if t.under("/redfish/v1/Systems") {
		s.hostTree(t)
	}
	if t.under("/redfish/v1/Chassis") {
		s.chassisTree(t)
	}
	if t.under("/redfish/v1/Managers") {
		s.managerTree(t)
	}
	if s.cfg.Profile == ILO4 {
		return
	}
	if t.under(inventoryPath) {
		s.inventoryTree(t)
	}
	if t.under(updatePath + "/SoftwareInventory") {
		t.collection(updatePath+"/SoftwareInventory", "SoftwareInventoryCollection", "Software Inventory")
	}
}

// rootTree adds the service root. s.mu is held.
func (s *Server) rootTree(t *tree) {
	t.add("/redfish/v1", "#ServiceRoot.v1_5_1.ServiceRoot", object{
		"Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.6.0", "UUID": uuid,
		"Systems": t.link("/redfish/v1/Systems"), "Managers": t.link("/redfish/v1/Managers"), "Chassis": t.link("/redfish/v1/Chassis"),
		"SessionService": t.link("/redfish/v1/SessionService"), "AccountService": t.link("/redfish/v1/AccountService"),
		"UpdateService": t.link(updatePath), "Tasks": t.link("/redfish/v1/TaskService"), "EventService": t.link("/redfish/v1/EventService"),
		"JsonSchemas": t.link("/redfish/v1/JsonSchemas"), "Registries": t.link("/redfish/v1/Registries"),
		"Links": object{"Sessions": t.link(s.sessionsPath())},
	})
}

// sessionTree adds the session service. s.mu is held.
func (s *Server) sessionTree(t *tree) {
	t.add("/redfish/v1/SessionService", "#SessionService.v1_1_3.SessionService", object{
		"Name": "Session Service", "ServiceEnabled": true, "SessionTimeout": 1800, "Sessions": t.link(s.sessionsPath()),
	})
	var members []string
	for _, ses := range s.sessions {
		members = append(members, s.sessionsPath()+"/"+ses.id)
		t.add(s.sessionsPath()+"/"+ses.id, "#Session.v1_0_0.Session", s.sessionObject(ses))
	}
	t.collection(s.sessionsPath(), "SessionCollection", "Sessions", members...)
}

// managerTree adds the managers. s.mu is held.
func (s *Server) managerTree(t *tree) {
	t.collection("/redfish/v1/Managers", "ManagerCollection", "Managers", s.managerPath())
	manager := t.add(s.managerPath(), "#Manager.v1_5_1.Manager", object{
		"Name": "Manager", "ManagerType": "BMC", "UUID": uuid, "FirmwareVersion": s.version(0), "Model": s.cfg.Firmware[0].Name,
		"Status": object{"State": "Enabled", "Health": "OK"},
		"Actions": object{"#Manager.Reset": object{
			"ResetType@Redfish.AllowableValues": []any{"ForceRestart", "GracefulRestart"},
			"target":                            s.managerPath() + "/Actions/Manager.Reset" + t.slash,
		}},
		"Links": object{"ManagerForServers": []any{t.link(s.systemPath())}, "ManagerForChassis": []any{t.link(s.chassisPath())}},
	})
	if s.cfg.LastResetTime {
		manager["LastResetTime"] = stamp(s.booted)
	}
}

// inventoryTree adds the firmware inventory. s.mu is held.
func (s *Server) inventoryTree(t *tree) {
	var members []string
	for _, f := range s.firmware {
		if f.Adapter {
			continue
		}
		members = append(members, inventoryPath+"/"+f.ID)
		t.add(inventoryPath+"/"+f.ID, "#SoftwareInventory.v1_2_0.SoftwareInventory", s.inventoryObject(f))
	}
	t.collection(inventoryPath, "SoftwareInventoryCollection", "Firmware Inventory", members...)
}

// inventoryObject is a SoftwareInventory resource. s.mu is held.
func (s *Server) inventoryObject(f Firmware) object {
	o := object{"Name": f.Name, "Version": s.listed(f), "Updateable": !f.Fixed, "Status": object{"State": "Enabled", "Health": "OK"}}
	if s.active(NoUpdateable) && s.faultLocked(NoUpdateable, nil) != nil {
		delete(o, "Updateable")
	}
	switch p := s.cfg.Profile; {
	case p.ilo() > 0:
		targets := make([]any, len(f.Targets))
		for i, t := range f.Targets {
			targets[i] = t
		}
		o["Description"] = f.Name
		o["Oem"] = object{"Hpe": object{
			"@odata.type": "#HpeiLOSoftwareInventory.v2_0_0.HpeiLOSoftwareInventory",
			"DeviceClass": f.DeviceClass, "DeviceContext": f.Context, "Targets": targets,
		}}
	case p == Generic:
		o["SoftwareId"] = f.Targets[0]
	}
	return o
}

// accountTree adds the account service. s.mu is held.
func (s *Server) accountTree(t *tree) {
	var members []string
	all := s.cfg.accounts()
	if s.active(OneViewManaged) && s.faultLocked(OneViewManaged, nil) != nil {
		// HPE OneView makes itself this account on every iLO that it manages.
		all = append(all, Account{User: "_HPOneViewAdmin", Role: Administrator})
	}
	for i, a := range all {
		path := fmt.Sprint("/redfish/v1/AccountService/Accounts/", i+1)
		members = append(members, path)
		role := a.Role
		if role == "" {
			role = ReadOnly
		}
		o := object{"Name": "User Account", "UserName": a.User, "RoleId": map[bool]string{true: "Administrator", false: "ReadOnly"}[role != ReadOnly], "Enabled": true}
		if s.cfg.Profile.ilo() > 0 {
			o["Oem"] = object{s.oem(): object{"LoginName": a.User, "Privileges": object{
				"LoginPriv": true, "iLOConfigPriv": role != ReadOnly, "SystemRecoveryConfigPriv": role == Administrator,
				"VirtualPowerAndResetPriv": role != ReadOnly,
			}}}
		}
		t.add(path, "#ManagerAccount.v1_1_3.ManagerAccount", o)
	}
	t.collection("/redfish/v1/AccountService/Accounts", "ManagerAccountCollection", "Accounts", members...)
	t.add("/redfish/v1/AccountService", "#AccountService.v1_3_0.AccountService", object{
		"Name": "Account Service", "Accounts": t.link("/redfish/v1/AccountService/Accounts"),
	})
}

// oem is the name of the vendor's extensions.
func (s *Server) oem() string {
	if s.cfg.Profile == ILO4 {
		return "Hp"
	}
	return "Hpe"
}

// handler carries out an action.
type handler func(x *exchange, r *http.Request, a Account) error

// change carries out what is not a GET.
func (s *Server) change(x *exchange, r *http.Request, path string, a Account) error {
	if s.cfg.Capture != nil {
		return s.stub(x, r, path)
	}
	if r.Method == http.MethodPost {
		for action, h := range s.actions() {
			if s.clean(action) == path {
				return h(x, r, a)
			}
		}
	}
	if r.Method == http.MethodPatch && s.cfg.Profile == Generic && path == s.clean(updatePath) {
		return s.patchUpdate(x, r, a)
	}
	if s.cfg.Profile.ilo() >= 5 {
		if h := s.repositoryHandler(r.Method, path); h != nil {
			return h(x, r, a)
		}
	}
	if r.Method == http.MethodDelete {
		if rest, ok := strings.CutPrefix(path, s.clean(subscriptionsPath)+"/"); ok {
			return s.unsubscribe(x, rest)
		}
	}
	s.mu.Lock()
	known := s.tree(path).nodes[path] != nil
	s.mu.Unlock()
	if !known {
		return &message{status: http.StatusNotFound, id: "ResourceMissingAtURI", args: []string{r.URL.Path}}
	}
	return &message{status: http.StatusMethodNotAllowed, id: "OperationNotAllowed"}
}

// actions are the requests by POST that change something, by path.
func (s *Server) actions() map[string]handler {
	m := map[string]handler{
		s.managerPath() + "/Actions/Manager.Reset":       s.managerReset,
		s.systemPath() + "/Actions/ComputerSystem.Reset": s.systemReset,
		subscriptionsPath: s.subscribe,
	}
	switch p := s.cfg.Profile; {
	case p == ILO4:
		m[ilo4UpdatePath] = s.installFromURI
		m[ilo4UpdatePath+"/Actions/HpiLOFirmwareUpdate.InstallFromURI"] = s.installFromURI
	case p.ilo() > 0:
		s.iloActions(m)
	case p == RMC:
		m[s.updateAllPath()] = s.updateAll
	default:
		s.genericActions(m)
	}
	return m
}

// getSpecial answers for what is not a plain resource.
func (s *Server) getSpecial(x *exchange, r *http.Request, path string) bool {
	if id, ok := strings.CutPrefix(path, s.clean("/redfish/v1/TaskService/TaskMonitors")+"/"); ok {
		s.monitor(x, r, id)
		return true
	}
	if path == s.clean(ssePath) && s.sse() {
		s.stream(x, r)
		return true
	}
	return false
}

// managerReset is Manager.Reset.
func (s *Server) managerReset(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := known("Manager.Reset", o, "ResetType", "Action"); err != nil {
		return err
	}
	s.mu.Lock()
	busy := s.flash.busy
	s.mu.Unlock()
	if busy {
		return s.cfg.Profile.busy()
	}
	s.resetSoon()
	s.success(x)
	return nil
}
