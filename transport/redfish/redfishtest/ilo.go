package redfishtest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

const (
	pushPath       = "/cgi-bin/uploadFile"
	extPath        = updatePath + "/Actions/Oem/Hpe/HpeiLOUpdateServiceExt."
	directoryPath  = "/redfish/v1/ResourceDirectory"
	repositoryPath = updatePath + "/ComponentRepository"
	queuePath      = updatePath + "/UpdateTaskQueue"
	setsPath       = updatePath + "/InstallSets"
	windowsPath    = updatePath + "/MaintenanceWindows"
)

// iloVersion is the number in an inventory version, as "2.72". s.mu is held.
func (s *Server) iloVersion() string {
	v, _, _ := strings.Cut(s.version(0), " ")
	return v
}

// iloTree adds what iLO has beside the standard. s.mu is held.
func (s *Server) iloTree(t *tree) {
	g, oem := s.cfg.Profile.ilo(), s.oem()
	if root := t.nodes[s.clean("/redfish/v1")]; root != nil {
		s.iloRoot(t, root)
	}
	if man := t.nodes[s.clean(s.managerPath())]; man != nil {
		version := fmt.Sprintf("iLO %d v%s", g, s.iloVersion())
		man["FirmwareVersion"], man["Model"] = version, fmt.Sprint("iLO ", g)
		ilo := object{
			"@odata.type": "#" + oem + "iLO.v2_6_0." + oem + "iLO",
			"Firmware":    object{"Current": object{"VersionString": version, "Date": "Sep 04 2022"}},
			"Type":        fmt.Sprint("iLO ", g),
		}
		man["Oem"] = object{oem: ilo}
		if g == 4 {
			ilo["Links"] = object{"UpdateService": t.link(ilo4UpdatePath)}
		}
	}
	if sys := t.nodes[s.clean(s.systemPath())]; sys != nil {
		sysType := map[int]string{4: "HpComputerSystemExt", 5: "HpeComputerSystemExt"}[min(g, 5)]
		sys["Oem"] = object{oem: object{
			"@odata.type": "#" + sysType + ".v2_10_1." + sysType,
			"Bios":        object{"Current": object{"VersionString": s.version(1)}},
			"PostState":   s.postState(), "AggregateHealthStatus": object{"AggregateServerHealth": "OK"},
		}}
	}
	if g > 4 {
		s.repositoryTree(t)
		if t.is(updatePath) {
			s.iloUpdate(t)
		}
	}
	s.iloDirectory(t)
}

// iloRoot adds to the service root what iLO says there. s.mu is held.
func (s *Server) iloRoot(t *tree, root object) {
	g, oem := s.cfg.Profile.ilo(), s.oem()
	ext := object{
		"@odata.type": "#" + oem + "eiLOServiceExt.v2_3_0.HpeiLOServiceExt",
		"Manager": []any{object{
			"DefaultLanguage": "en", "FQDN": "ilo.example", "HostName": "ilo", "IPManager": object{}, "Languages": []any{},
			"ManagerFirmwareVersion": s.iloVersion(), "ManagerType": fmt.Sprint("iLO ", g),
			"Status": object{"Health": "OK"},
		}},
		"Moniker":  object{"PRODABR": "iLO", "PRODGEN": fmt.Sprint("iLO ", g), "SYSFAM": "ProLiant"},
		"Sessions": object{"CertCommonName": "redfishtest", "ServerName": "host", "LocalLoginEnabled": true},
		"System":   []any{object{"Status": object{"Health": "OK"}}},
		"Links":    object{"ResourceDirectory": t.link(directoryPath)},
	}
	root["Oem"] = object{oem: ext}
	root["Vendor"], root["Product"] = "HPE", map[int]string{4: "ProLiant DL380 Gen9", 5: "ProLiant DL380 Gen10", 6: "ProLiant DL380 Gen11", 7: "ProLiant DL380 Gen12"}[g]
}

// iloUpdate adds the update service. s.mu is held.
func (s *Server) iloUpdate(t *tree) {
	g := s.cfg.Profile.ilo()
	actions := object{}
	for _, name := range []string{
		"AddFromUri", "DeleteInstallSets", "DeleteMaintenanceWindows", "DeleteUnlockedComponents", "DeleteUpdateTaskQueueItems", "StartFirmwareIntegrityCheck",
	} {
		actions["#HpeiLOUpdateServiceExt."+name] = object{"target": extPath + name + t.slash}
	}
	standard := object{"#UpdateService.SimpleUpdate": object{
		"TransferProtocol@Redfish.AllowableValues": []any{"HTTP", "HTTPS"}, "target": simpleUpdatePath + t.slash,
	}}
	flash, _ := s.shown()
	hpe := object{
		"@odata.type":         "#HpeiLOUpdateServiceExt.v2_3_0.HpeiLOUpdateServiceExt",
		"State":               flash.state,
		"Capabilities":        object{"PLDMFirmwareUpdate": g > 5, "UpdateFWPKG": g > 5 || compareVersions(s.version(0), "2.30") >= 0},
		"CurrentTime":         stamp(s.now()),
		"ComponentRepository": t.link(repositoryPath), "UpdateTaskQueue": t.link(queuePath),
		"InstallSets": t.link(setsPath), "MaintenanceWindows": t.link(windowsPath), "BundleUpdateReport": object{},
		"DowngradePolicy": "AllowDowngrade", "Accept3rdPartyFirmware": false,
	}
	if tag, ok := s.mark(flash); ok {
		hpe["UploadCurrentEtag"] = tag
	}
	if flash.state != "Idle" && flash.state != "Complete" {
		hpe["FlashProgressPercent"] = flash.percent
	}
	if flash.message != "" {
		hpe["Result"] = object{"MessageId": s.cfg.Profile.full(flash.message), "MessageArgs": []any{}}
	}
	if s.cfg.OtherActions {
		standard["Oem"] = object{"Hpe": actions}
	} else {
		hpe["Actions"] = actions
	}
	t.add(updatePath, "#UpdateService.v1_1_1.UpdateService", object{
		"Name": "Update Service", "Description": "iLO Update Service", "ServiceEnabled": true,
		"FirmwareInventory": t.link(inventoryPath), "SoftwareInventory": t.link(updatePath + "/SoftwareInventory"),
		"HttpPushUri": pushPath, "Status": object{"State": "Enabled", "Health": "OK"},
		"Actions": standard, "Oem": object{"Hpe": hpe},
	})
}

func (s *Server) postState() string {
	switch {
	case s.host.power == "Off":
		return "PowerOff"
	case s.host.busy:
		return "InPost"
	}
	return "FinishedPost"
}

// iloDirectory adds the resource directory, which HPE's client reads first.
func (s *Server) iloDirectory(t *tree) {
	if !t.all {
		return
	}
	var instances []any
	for _, path := range t.paths {
		if path == "/redfish/v1/JsonSchemas" || path == "/redfish/v1/Registries" {
			continue // what HPE's client finds here it does not fetch
		}
		o := t.nodes[t.clean(path)]
		instances = append(instances, object{
			"@odata.id": path + t.slash, "@odata.type": o["@odata.type"], "ETag": etag(o), "HttpMethods": []any{"GET", "HEAD"},
		})
	}
	t.add(directoryPath, "#"+s.oem()+"iLOResourceDirectory.v2_0_0."+s.oem()+"iLOResourceDirectory", object{
		"Name": "Resource Directory", "Instances": instances,
	})
}

func (s *Server) iloActions(m map[string]handler) {
	m[simpleUpdatePath] = s.iloSimpleUpdate
	m[extPath+"AddFromUri"] = s.addFromURI
	m[extPath+"DeleteInstallSets"] = s.deleteAll(setsPath)
	m[extPath+"DeleteMaintenanceWindows"] = s.deleteAll(windowsPath)
	m[extPath+"DeleteUnlockedComponents"] = s.deleteAll(repositoryPath)
	m[extPath+"DeleteUpdateTaskQueueItems"] = s.deleteAll(queuePath)
	m[s.systemPath()+"/Actions/Oem/Hpe/HpeComputerSystemExt.SystemReset"] = s.auxCycle
}

// tpm fails where a TPM wants the override flag and it is not there.
func (s *Server) tpm(r *http.Request, override bool) error {
	if !override && s.fault(TPM, r) != nil {
		return bad("FWFlashTPMOverrideFlagRequired")
	}
	return nil
}

// iloSimpleUpdate is SimpleUpdate as iLO has it: an image as it is, and nothing
// happens to a file of another form.
func (s *Server) iloSimpleUpdate(x *exchange, r *http.Request, _ Account) error {
	const action = "UpdateService.SimpleUpdate"
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	// HPE's own client names the action in the body.
	if err := known(action, o, "ImageURI", "TransferProtocol", "Targets", "Action"); err != nil {
		return err
	}
	uri := text(o, "ImageURI")
	if uri == "" {
		return bad("ActionParameterMissing", action, "ImageURI")
	}
	if imageURL(uri) == nil {
		return bad("SimpleUpdateInvalidImageURI", uri)
	}
	targets := list(o, "Targets")
	if err := s.checkTargets(targets); err != nil {
		return err
	}
	return s.start(x, r, "Update Service SimpleUpdate", func(ctx context.Context) error {
		c, err := s.pull(ctx, uri, "")
		if err != nil {
			return err
		}
		if c.form != rawForm {
			s.mu.Lock()
			s.journal = append(s.journal, "Firmware update: "+c.name+" is not an image that can be flashed.")
			s.mu.Unlock()
			return s.step(ctx, 1)
		}
		if err := s.verify(ctx, c); err != nil {
			return err
		}
		return s.write(ctx, c, "Bmc", targets)
	})
}

// checkTargets fails for targets that are no updateable entries of the inventory.
func (s *Server) checkTargets(targets []string) error {
	if len(targets) > 10 {
		return bad("InvalidTargetsURI")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range targets {
		ok := false
		for _, f := range s.firmware {
			ok = ok || !f.Fixed && s.clean(t) == s.clean(inventoryPath+"/"+f.ID)
		}
		if !ok {
			return bad("InvalidTargetsURI", t)
		}
	}
	return nil
}

// addFromURI is AddFromUri: iLO fetches a component, and what was said of a push
// is true of it then.
func (s *Server) addFromURI(x *exchange, r *http.Request, a Account) error {
	const action = "HpeiLOUpdateServiceExt.AddFromUri"
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if err := known(action, o, "ImageURI", "CompSigURI", "ComponentFileName", "Section", "UpdateRepository", "UpdateTarget",
		"UpdateRecoverySet", "TPMOverrideFlag", "Targets", "ETag"); err != nil {
		return err
	}
	uri, sig := text(o, "ImageURI"), text(o, "CompSigURI")
	if uri == "" {
		return bad("ActionParameterMissing", action, "ImageURI")
	}
	if imageURL(uri) == nil || sig != "" && imageURL(sig) == nil {
		return bad("SimpleUpdateInvalidImageURI", uri)
	}
	section, _ := o["Section"].(float64)
	u := upload{
		Repository: truth(o, "UpdateRepository"), Target: truth(o, "UpdateTarget"), Recovery: truth(o, "UpdateRecoverySet"),
		Section: int(section), ETag: text(o, "ETag"), name: text(o, "ComponentFileName"), targets: list(o, "Targets"),
	}
	if err := s.checkTargets(u.targets); err != nil {
		return err
	}
	if u.name == "" {
		p := imageURL(uri).Path
		u.name = p[strings.LastIndexByte(p, '/')+1:]
	}
	if u.Target {
		if err := s.tpm(r, truth(o, "TPMOverrideFlag")); err != nil {
			return err
		}
	}
	if err := s.mayUpload(u, a); err != nil {
		return err
	}
	return s.start(x, r, "Update Service AddFromUri", func(ctx context.Context) error {
		s.mu.Lock()
		s.flash.etag = u.ETag
		s.mu.Unlock()
		var b limited
		if sig != "" {
			if err := s.fetch(ctx, sig, &b); err != nil {
				if ctx.Err() != nil {
					return err
				}
				return bad(s.cfg.Profile.downloadFailure())
			}
			u.compsig = b.Bytes()
		}
		in, err := s.newIntake(&u)
		if err != nil {
			return err
		}
		defer in.discard()
		if err := s.fetch(ctx, uri, in); err != nil {
			in.cut(s)
			if ctx.Err() != nil {
				return err
			}
			return bad(s.cfg.Profile.downloadFailure())
		}
		return s.take(ctx, &u, in)
	})
}

// auxCycle takes the power from the whole server, iLO included.
func (s *Server) auxCycle(x *exchange, r *http.Request, _ Account) error {
	o, err := x.decode(r)
	if err != nil {
		return err
	}
	if text(o, "ResetType") != "AuxCycle" {
		return bad("ActionParameterNotInList", text(o, "ResetType"), "ResetType")
	}
	if err := s.power("PowerCycle"); err != nil {
		return err
	}
	s.resetSoon()
	s.success(x)
	return nil
}
