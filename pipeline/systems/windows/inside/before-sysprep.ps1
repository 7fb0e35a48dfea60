# What has to be taken away before sysprep, because sysprep leaves it. goldsmith runs it as the system; it may run again.
$ErrorActionPreference = 'Stop'

# Files that are to be replaced or deleted at the next start: that start is now. Once, because some programs make such
# a list anew at every start.
$manager = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager'
$mark = "$env:SystemRoot\Temp\goldsmith-restarted"
$values = Get-ItemProperty $manager
$renames = @($values.PendingFileRenameOperations) + @($values.PendingFileRenameOperations2) | Where-Object { $_ }
$again = $renames -and -not (Test-Path $mark)
if ($again) { New-Item -Path $mark -ItemType File -Force | Out-Null }
if ($again) { Write-Output "$(@($renames).Count) files wait for a restart"; exit 3010 }
Remove-Item -Path $mark -Force -ErrorAction SilentlyContinue
if ($renames) { Write-Output "$(@($renames).Count) files wait for a restart still: $(@($renames)[0])" }

# win-hibernation: powercfg leaves the switch of fast startup on
powercfg /hibernate off
$power = "$manager\Power"
if (-not (Test-Path $power)) { New-Item -Path $power -Force | Out-Null }
New-ItemProperty -Path $power -Name 'HiberbootEnabled' -Value 0 -PropertyType 'DWord' -Force | Out-Null

# win-answer-cached: Windows looks in these places before it looks at the medium of a cloud
Remove-Item -Path "$env:SystemRoot\Panther\unattend.xml" -Force -ErrorAction SilentlyContinue
Remove-Item -Path "$env:SystemRoot\Panther\Unattend\unattend.xml" -Force -ErrorAction SilentlyContinue
Remove-Item -Path "$env:SystemRoot\Panther\Unattend\autounattend.xml" -Force -ErrorAction SilentlyContinue
Remove-ItemProperty -Path 'HKLM:\SYSTEM\Setup' -Name 'UnattendFile' -Force -ErrorAction SilentlyContinue

# win-lsa-password, win-autologon: the answer file's one logon leaves its password in both places
$secret = 'HKLM:\SECURITY\Policy\Secrets\DefaultPassword'
if (Test-Path $secret) { Remove-Item -Path $secret -Recurse -Force }
$logon = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon'
Remove-ItemProperty -Path $logon -Name 'DefaultPassword' -Force -ErrorAction SilentlyContinue
Set-ItemProperty -Path $logon -Name 'AutoAdminLogon' -Value '0'

# win-account-passwords: on a client sysprep disables the administrator and keeps its password; a server's policy
# allows no empty one, and its sysprep takes the password away
if ((Get-CimInstance Win32_OperatingSystem).ProductType -eq 1) {
    $account = Get-LocalUser | Where-Object { "$($_.SID)" -match '^S-1-5-21-.*-500$' }
    try { $account | Set-LocalUser -Password ([securestring]::new()) }
    catch { Write-Output "the administrator keeps its password: $_" }
}
exit 0
