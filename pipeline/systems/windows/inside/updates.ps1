# One round of Windows Update: search, download, install. It runs in the guest as the system, by its own PowerShell and
# the Windows Update Agent's COM interface, and restarts nothing. What it does it says in lines that goldsmith reads:
# "goldsmith WORD JSON". $only, $criteria and $security stand above.
$ErrorActionPreference = 'Stop'

function Say($Word, $Told) {
    $json = ConvertTo-Json -InputObject $Told -Compress
    # the console's code page would garble what is not ASCII
    $plain = [regex]::Replace($json, '[^\x20-\x7e]', { param($found) '\u{0:x4}' -f [int][char]$found.Value })
    # Write-Output may break a long line at the width of a console that nobody sees
    [Console]::Out.WriteLine("goldsmith $Word $plain")
}

function Format-Code($Code) {
    return '0x{0:x8}' -f [int]$Code
}

function Get-Code($Record) {
    # PowerShell wraps what COM throws
    $inner = $Record.Exception
    while ($inner.InnerException) { $inner = $inner.InnerException }
    return (Format-Code $inner.HResult)
}

function Get-Told($Update) {
    return @{
        id = "$($Update.Identity.UpdateID).$($Update.Identity.RevisionNumber)"
        kb = @($Update.KBArticleIDs | ForEach-Object { "KB$_" })
        title = $Update.Title
        size = [long]$Update.MaxDownloadSize
    }
}

function New-Collection($Update) {
    $collection = New-Object -ComObject Microsoft.Update.UpdateColl
    [void]$collection.Add($Update)
    # PowerShell would unroll it
    return , $collection
}

# OperationResultCode: 2 is succeeded, 3 succeeded with errors
$good = 2, 3

Say 'phase' @{ phase = 'search' }
try {
    $session = New-Object -ComObject Microsoft.Update.Session
    $session.ClientApplicationID = 'goldsmith'
    $result = $session.CreateUpdateSearcher().Search($criteria)
    if ($good -notcontains $result.ResultCode) {
        $why = @($result.Warnings | ForEach-Object { Format-Code $_.HResult }) + '0x00000000'
        Say 'error' @{ code = $why[0]; message = "the search ended with $($result.ResultCode)" }
        exit 1
    }
} catch {
    Say 'error' @{ code = (Get-Code $_); message = $_.Exception.Message }
    exit 1
}

$wanted = @()
foreach ($update in $result.Updates) {
    $told = Get-Told $update
    $kinds = @($update.Categories | ForEach-Object { $_.CategoryID })
    if ($only -eq 'security' -and -not ($kinds | Where-Object { $security -contains $_ })) { continue }
    if ($update.InstallationBehavior.CanRequestUserInput) {
        # it would wait for somebody who is not there
        Say 'skipped' $told
        continue
    }
    Say 'found' $told
    $wanted += $update
}

Say 'phase' @{ phase = 'download' }
$ready = @()
foreach ($update in $wanted) {
    $told = Get-Told $update
    try {
        if (-not $update.EulaAccepted) { $update.AcceptEula() }
        if (-not $update.IsDownloaded) {
            $downloader = $session.CreateUpdateDownloader()
            $downloader.Updates = New-Collection $update
            $done = $downloader.Download().GetUpdateResult(0)
            if ($good -notcontains $done.ResultCode) {
                Say 'failed' ($told + @{ code = (Format-Code $done.HResult) })
                continue
            }
        }
        Say 'downloaded' $told
        $ready += $update
    } catch {
        Say 'failed' ($told + @{ code = (Get-Code $_) })
    }
}

Say 'phase' @{ phase = 'install' }
foreach ($update in $ready) {
    $told = Get-Told $update
    try {
        $installer = $session.CreateUpdateInstaller()
        # what is left is found again after the restart
        if ($installer.RebootRequiredBeforeInstallation) { break }
        $installer.AllowSourcePrompts = $false
        $installer.ForceQuiet = $true
        $installer.Updates = New-Collection $update
        Say 'installing' $told
        $done = $installer.Install().GetUpdateResult(0)
        if ($good -contains $done.ResultCode) {
            Say 'installed' $told
        } else {
            Say 'failed' ($told + @{ code = (Format-Code $done.HResult) })
        }
    } catch {
        Say 'failed' ($told + @{ code = (Get-Code $_) })
    }
}

$system = New-Object -ComObject Microsoft.Update.SystemInfo
Say 'end' @{ restart = [bool]$system.RebootRequired }
exit 0
