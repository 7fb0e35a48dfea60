# What Azure asks of a Windows disk before it is generalized. Each part can be run again, and is proven on the disk at
# rest by the check that stands beside it (goldsmith checks). Written from "Prepare a Windows VHD or VHDX to upload".
$ErrorActionPreference = 'Stop'

function Set-Value($Key, $Name, $Value, $Type = 'DWord') {
    if (-not (Test-Path $Key)) { New-Item -Path $Key -Force | Out-Null }
    New-ItemProperty -Path $Key -Name $Name -Value $Value -PropertyType $Type -Force | Out-Null
}

$control = 'HKLM:\SYSTEM\CurrentControlSet\Control'
$services = 'HKLM:\SYSTEM\CurrentControlSet\Services'
$policies = 'HKLM:\SOFTWARE\Policies\Microsoft\Windows NT\Terminal Services'

# win-san-policy
'san policy=onlineall' | diskpart | Out-Null

# win-network: no static routes
if (Get-NetRoute -PolicyStore PersistentStore -ErrorAction SilentlyContinue) {
    Get-NetRoute -PolicyStore PersistentStore | Remove-NetRoute -Confirm:$false
}

# win-proxy
netsh winhttp reset proxy | Out-Null

# win-utc
Set-Value "$control\TimeZoneInformation" 'RealTimeIsUniversal' 1

# win-hibernation
powercfg /setactive SCHEME_MIN
powercfg /hibernate off
Set-Value "$control\Session Manager\Power" 'HiberbootEnabled' 0

# win-temp
foreach ($name in 'TEMP', 'TMP') {
    Set-Value "$control\Session Manager\Environment" $name '%SystemRoot%\TEMP' 'ExpandString'
}

# win-services
foreach ($name in 'BFE', 'Dhcp', 'Dnscache', 'IKEEXT', 'iphlpsvc', 'nsi', 'mpssvc', 'RemoteRegistry', 'w32time') {
    Set-Value "$services\$name" 'Start' 2
}
foreach ($name in 'Netlogon', 'Netman', 'TermService') {
    Set-Value "$services\$name" 'Start' 3
}

# win-rdp, win-rdp-nla, win-rdp-certificate, win-rdp-policy
$rdp = "$control\Terminal Server\WinStations\RDP-Tcp"
Set-Value "$control\Terminal Server" 'fDenyTSConnections' 0
Set-Value $rdp 'PortNumber' 3389
Set-Value $rdp 'LanAdapter' 0
Set-Value $rdp 'UserAuthentication' 1
Set-Value $policies 'KeepAliveEnable' 1
Set-Value $policies 'KeepAliveInterval' 1
Set-Value $rdp 'KeepAliveTimeout' 1
Remove-ItemProperty -Path $rdp -Name 'SSLCertificateSHA1Hash' -Force -ErrorAction SilentlyContinue
Remove-ItemProperty -Path $policies -Name 'fDenyTSConnections' -Force -ErrorAction SilentlyContinue

# win-firewall, win-firewall-rdp, win-firewall-platform
# the group by its resource: its display name is in the language of this Windows
Set-NetFirewallProfile -Profile @('Domain', 'Public', 'Private') -Enabled True
Set-NetFirewallRule -Group '@FirewallAPI.dll,-28752' -Enabled True
Set-NetFirewallRule -Name 'FPS-ICMP4-ERQ-In' -Enabled True
foreach ($direction in 'Inbound', 'Outbound') {
    $name = "AzurePlatform-$direction"
    if (-not (Get-NetFirewallRule -Name $name -ErrorAction SilentlyContinue)) {
        New-NetFirewallRule -Name $name -DisplayName 'AzurePlatform' -Direction $direction -Action Allow `
            -RemoteAddress 168.63.129.16 -Profile Any | Out-Null
    }
}

# win-ems-console: on a client the console of Emergency Management Services is a feature on demand
$edition = (Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion').InstallationType
if ($edition -eq 'Client') {
    Add-WindowsCapability -Online -Name 'Windows.Desktop.EMS-SAC.Tools~~~~0.0.1.0' | Out-Null
}
if (Test-Path "$services\sacsvr") { Set-Value "$services\sacsvr" 'Start' 2 }

# win-boot-recovery, win-ems, win-ems-menu
bcdedit /set '{current}' recoveryenabled Off | Out-Null
bcdedit /set '{current}' bootstatuspolicy IgnoreAllFailures | Out-Null
bcdedit /set '{bootmgr}' integrityservices enable | Out-Null
bcdedit /set '{bootmgr}' displaybootmenu yes | Out-Null
bcdedit /set '{bootmgr}' timeout 5 | Out-Null
bcdedit /set '{bootmgr}' bootems yes | Out-Null
bcdedit /ems '{current}' on | Out-Null
bcdedit /emssettings EMSPORT:1 EMSBAUDRATE:115200 | Out-Null

# win-crash
Set-Value "$control\CrashControl" 'CrashDumpEnabled' 2
Set-Value "$control\CrashControl" 'AutoReboot' 1

# win-boot-drivers, win-cdrom: Hyper-V's disks and Azure's medium, in every control set
$sets = Get-ChildItem 'HKLM:\SYSTEM' | Where-Object PSChildName -Match '^ControlSet\d{3}$'
foreach ($set in $sets) {
    foreach ($name in 'vmbus', 'storvsc', 'storflt', 'intelide', 'atapi') {
        $key = "HKLM:\SYSTEM\$($set.PSChildName)\Services\$name"
        if (Test-Path $key) {
            Set-Value $key 'Start' 0
            Remove-Item -Path "$key\StartOverride" -Force -ErrorAction SilentlyContinue
        }
    }
    Set-Value "HKLM:\SYSTEM\$($set.PSChildName)\Services\cdrom" 'Start' 1
}

# win-pending: until nothing is
$pending = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending',
    'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired'
if ($pending | Where-Object { Test-Path $_ }) {
    Write-Output 'a restart is pending'
    exit 3010
}
